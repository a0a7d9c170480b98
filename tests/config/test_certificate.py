"""The gateway's own certificate: each mistake in its files is one clear sentence, wherever it is met."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sage_inference.config import certificate
from sage_inference.config.certificate import CertificateError
from sage_inference.config.check import check
from sage_inference.config.errors import ConfigError
from sage_inference.config.settings import ServerSettings, Settings
from sage_inference.config.warnings import warnings_of
from tests.support.command import sage
from tests.support.tls import LOCAL, Authority, Certificate, self_signed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys of many kinds."""
    folder = tmp_path_factory.mktemp("made")
    self_signed(folder, "ec")
    self_signed(folder, "other")
    self_signed(folder, "rsa", kind="rsa")
    authority = Authority(folder, "ca")
    _copy(authority.issue(days=-1), folder, "expired")
    _copy(authority.issue(), folder, "signed")
    _write(folder, "combined.pem", "ec.key", "ec.pem")
    _write(folder, "reversed.pem", "ca.pem", "signed.pem")
    _write(folder, "chained.pem", "signed.pem", "ca.pem")
    (folder / "half.pem").write_bytes((folder / "ec.pem").read_bytes()[:300])
    (folder / "half.key").write_bytes((folder / "ec.key").read_bytes()[:100])
    (folder / "damaged.pem").write_text((folder / "ec.pem").read_text().replace("M", "A", 9))
    (folder / "empty.pem").touch()
    (folder / "locked.pem").write_bytes((folder / "ec.pem").read_bytes())
    os.mkfifo(folder / "pipe")
    openssl = ["openssl", "pkey", "-in", "ec.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key"]
    subprocess.run(openssl, cwd=folder, check=True, capture_output=True)
    openssl = ["openssl", "x509", "-in", "ec.pem", "-outform", "der", "-out", "ec.der"]
    subprocess.run(openssl, cwd=folder, check=True, capture_output=True)
    return folder


def _copy(found: Certificate, folder: Path, name: str) -> None:
    shutil.copy(found.chain, folder / f"{name}.pem")
    shutil.copy(found.key, folder / f"{name}.key")


def _write(folder: Path, name: str, *parts: str) -> None:
    (folder / name).write_bytes(b"".join((folder / part).read_bytes() for part in parts))


def settings(folder: Path, cert: str | None, key: str | None) -> Settings:
    at = {
        name: None if file is None else str(folder / file)
        for name, file in (("tls_cert", cert), ("tls_key", key))
    }
    return Settings(server=ServerSettings(**at))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cert", "key"),
    [("ec.pem", "ec.key"), ("combined.pem", None), ("rsa.pem", "rsa.key"), ("chained.pem", "signed.key")],
)
def test_pairs_that_can_be_used(made: Path, cert: str, key: str | None) -> None:
    check(settings(made, cert, key))
    found = certificate.read(settings(made, cert, key).server)
    assert (len(found.sha256), found.names) == (64, ("localhost", "127.0.0.1"))
    assert found.begins_at < found.ends_at


MISTAKES = {
    "missing": ("nowhere.pem", None, "server.tls_cert", "not readable: no such file"),
    "missing key": ("ec.pem", "nowhere.key", "server.tls_key", "not readable: no such file"),
    "folder": (".", None, "server.tls_cert", "is a directory"),
    "pipe": ("pipe", None, "server.tls_cert", "no regular file"),
    "empty": ("empty.pem", "ec.key", "server.tls_cert", "the file is empty"),
    "binary": ("ec.der", "ec.key", "server.tls_cert", "openssl x509 -inform der"),
    "key as certificate": ("ec.key", "ec.key", "server.tls_cert", "no certificate, only: private key"),
    "half a certificate": ("half.pem", "ec.key", "server.tls_cert", "damaged"),
    "damaged": ("damaged.pem", "ec.key", "server.tls_cert", "damaged"),
    "half a key": ("ec.pem", "half.key", "server.tls_key", "damaged"),
    "certificate as key": ("ec.pem", "ec.pem", "server.tls_key", "no private key"),
    "no key": ("ec.pem", None, "server.tls_key", "name the file of the key in server.tls_key"),
    "password": ("locked.pem", "locked.key", "server.tls_key", "protected by a password"),
    "other key": ("ec.pem", "other.key", "server.tls_key", "does not belong to the certificate"),
    "key of another kind": ("ec.pem", "rsa.key", "server.tls_key", "does not belong to the certificate"),
    "authority first": ("reversed.pem", "signed.key", "server.tls_key", "must be the first in its file"),
    "expired": ("expired.pem", "expired.key", "server.tls_cert", "expired on 20"),
    "key alone": (None, "ec.key", "server.tls_key", "without server.tls_cert"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_sentence(made: Path, mistake: str, capfd: pytest.CaptureFixture[str]) -> None:
    cert, key, setting, words = MISTAKES[mistake]
    with pytest.raises(ConfigError) as caught:
        check(settings(made, cert, key))
    text = str(caught.value)
    assert caught.value.key == setting
    assert words in text
    assert "\n" not in text
    assert "secret" not in text
    if words != "without server.tls_cert":
        assert str(made) in text
    assert capfd.readouterr() == ("", "")  # nothing asked for a password


def test_a_certificate_that_is_not_valid_yet(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)
    with pytest.raises(CertificateError, match=r"is not valid before 20.*set the clock"):
        check(settings(made, "ec.pem", "ec.key"))


def test_a_file_that_may_not_be_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # root may read every file
    with pytest.raises(CertificateError, match="permission denied; give the gateway's user the right"):
        check(settings(made, "ec.pem", "ec.key"))


def test_an_expired_certificate_that_a_gateway_serves_does_not_prevent_its_reload(made: Path) -> None:
    expired = settings(made, "expired.pem", "expired.key")
    check(expired, served=certificate.read(expired.server).sha256)
    assert any("expired on" in str(remark) for remark in warnings_of(expired, {}))


@pytest.mark.parametrize("folder_is_open", [True, False])
def test_a_key_that_everybody_can_read_is_a_warning(made: Path, tmp_path: Path, folder_is_open: bool) -> None:
    folder = Path(f"/tmp/sage-open-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        for name in ("ec.pem", "ec.key"):
            shutil.copy(made / name, folder / name)
        (folder / "ec.key").chmod(0o644)
        folder.chmod(0o755 if folder_is_open else 0o700)
        found = [str(remark) for remark in warnings_of(settings(folder, "ec.pem", "ec.key"), {})]
        assert any("every user" in line and "chmod 600" in line for line in found) is folder_is_open
        (folder / "ec.key").chmod(0o600)
        assert not warnings_of(settings(folder, "ec.pem", "ec.key"), {})
    finally:
        shutil.rmtree(folder)


def test_the_end_of_a_certificate_is_announced(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = certificate.read(settings(made, "ec.pem", "ec.key").server)
    monkeypatch.setattr("time.time", lambda: found.ends_at - 3600)
    [remark] = warnings_of(settings(made, "ec.pem", "ec.key"), {})
    assert "expires on" in str(remark)


def test_validate_and_start_refuse_with_the_same_sentence(made: Path, tmp_path: Path) -> None:
    cert, key, _, words = MISTAKES["password"]
    at = {
        "SAGE_INFERENCE_SERVER__TLS_CERT": str(made / str(cert)),
        "SAGE_INFERENCE_SERVER__TLS_KEY": str(made / str(key)),
    }
    for command in (("config", "validate"), ("start",)):
        done = sage(tmp_path, *command, **at)  # type: ignore[arg-type]
        assert (done.returncode, done.stdout) == (1, "")
        assert words in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_names_of_a_certificate_are_those_of_its_extension(tmp_path: Path) -> None:
    found = Authority(tmp_path, "ca").issue(f"{LOCAL},DNS:*.lab.example,IP:::1")
    server = ServerSettings(tls_cert=str(found.chain), tls_key=str(found.key))
    names = certificate.read(server).names
    assert names[:3] == ("localhost", "127.0.0.1", "*.lab.example")
