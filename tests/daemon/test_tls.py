"""A gateway with a certificate that signs itself, as its user's own commands reach it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import sage_inference as si
from sage_inference import pinning
from sage_inference.cli.main import main
from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, pidfile
from sage_inference.daemon.access import access
from sage_inference.daemon.control import inspect
from tests.support.command import sage
from tests.support.gateway import Gateway, free_port, running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine
from tests.support.tls import Certificate, TlsCaller, self_signed, trusting

MODEL = "simulated-llm"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return [self_signed(folder, name) for name in ("first", "second")]


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(certificates: list[Certificate], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``now.pem`` and ``now.key``, which the gateway's configuration names."""
    folder = tmp_path_factory.mktemp("now")
    put(certificates[0], folder)
    return folder


def put(certificate: Certificate, folder: Path) -> None:
    """Replace both files, each by a rename."""
    for file, name in ((certificate.chain, "now.pem"), (certificate.key, "now.key")):
        shutil.copy(file, folder / f".{name}")
        (folder / f".{name}").rename(folder / name)


def tls(folder: Path) -> dict[str, Any]:
    return {"server": {"tls_cert": str(folder / "now.pem"), "tls_key": str(folder / "now.key")}}


@pytest.fixture(scope="module")
def g(folder: Path, engine: SimulatedEngine) -> Iterator[Gateway]:
    with running_gateway(engine.url, config=tls(folder)) as gateway:
        yield gateway


def shown(g: Gateway, *certificates: Certificate) -> str:
    with TlsCaller(g.port, trusting(*certificates)) as caller:
        return caller.sha256


def until_shown(g: Gateway, before: str, *certificates: Certificate) -> str:
    deadline = time.monotonic() + 10
    while (now := shown(g, *certificates)) == before:
        assert time.monotonic() < deadline, g.log()
        time.sleep(0.05)
    return now


def test_every_command_reaches_it_and_prints_https(
    g: Gateway, monkeypatch: pytest.MonkeyPatch, certificates: list[Certificate]
) -> None:
    url = f"https://127.0.0.1:{g.port}"
    assert f"running at {url}" in sage(g.home, "status").stdout
    assert sage(g.home, "reload").returncode == 0
    done = sage(g.home, "bench", "--requests", "3", "--concurrency", "1", "--no-ceiling", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"] == url
    for args in (("models",), ("chat", "hi", "--set", "max_tokens=2"), ("chat", "--base-url", url, "hi")):
        assert (asked := sage(g.home, *args)).returncode == 0, asked.stderr
    # The clients of this user find the gateway, and know it by its certificate.
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(g.home))
    named = (si.UnifiedInferenceClient(url), si.UnifiedInferenceClient(f"https://localhost:{g.port}"))
    for client in (*named, si.UnifiedInferenceClient.create_auto()):
        with client:
            assert client.chat("hi", model=MODEL, max_tokens=2)
            assert "".join(client.chat("hi", model=MODEL, max_tokens=2, stream=True))

    async def chat() -> str:
        async with await si.AsyncUnifiedInferenceClient.create_auto() as client:
            return await client.chat("hi", model=MODEL, max_tokens=2)

    assert asyncio.run(chat())
    assert access(Paths.resolve()).url == url


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (("top", "--once"), 0, "running https://"),
        (("ui", "--no-open"), 0, "https://127.0.0.1:"),
        (("usage",), 0, MODEL),
        (("ps", "--json"), 0, '"engines": []'),
        (("doctor", "-v"), 0, "running at https://"),
        (("keys", "list"), 0, "no keys"),
        (("explain", "no-such-request"), 1, ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_questions_to_it_are_answered(
    g: Gateway,
    words: tuple[str, ...],
    status: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(g.home))
    monkeypatch.setenv("SAGE_INFERENCE_DISCOVER", "false")
    assert main(["inference", *words], program="sage") == status
    assert shown in capsys.readouterr().out


def test_another_server_on_its_port_gets_no_token(g: Gateway, certificates: list[Certificate]) -> None:
    """A program that took the port, with any other certificate."""
    info = pidfile.read(g.paths.pid_file)
    assert info is not None
    thief = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    thief.load_cert_chain(certificates[1].chain, certificates[1].key)
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def steal() -> None:
            connection, _ = server.accept()
            try:
                with thief.wrap_socket(connection, server_side=True) as secure:
                    got.append(secure.recv(65536))
            except OSError as error:
                got.append(str(error).encode())

        thread = threading.Thread(target=steal)
        thread.start()
        with pytest.raises(pinning.WrongCertificateError):
            admin.ask(replace(info, port=server.getsockname()[1]), "GET", "/admin/status")
        thread.join(10)
    assert info.admin_token.encode() not in b"".join(got)
    assert admin.ask(info, "GET", "/admin/status")[0] == 200


def test_renewed_files_are_taken_without_a_restart_and_commands_go_on(
    g: Gateway, certificates: list[Certificate], folder: Path
) -> None:
    stale = pidfile.read(g.paths.pid_file)
    assert stale is not None
    first = shown(g, *certificates)
    with TlsCaller(g.port, trusting(*certificates)) as old:
        put(certificates[1], folder)
        second = until_shown(g, first, *certificates)
        old.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert old.reply().status == 200
    assert admin.ask(stale, "GET", "/admin/status")[0] == 200  # read before the renewal
    assert inspect(g.paths).state == "running"
    put(certificates[0], folder)
    os.kill(g.process.pid, signal.SIGHUP)
    assert until_shown(g, second, *certificates) == first
    assert g.log().count("new certificate, valid until") >= 2


def test_a_pair_that_cannot_be_used_keeps_the_old_one(
    g: Gateway, certificates: list[Certificate], folder: Path
) -> None:
    first = shown(g, *certificates)
    (folder / "now.key").write_bytes(b"half")
    done = sage(g.home, "reload")
    assert (done.returncode, "no private key" in " ".join(done.stderr.split())) == (1, True)
    assert shown(g, *certificates) == first
    assert "Traceback" not in g.log()
    put(certificates[0], folder)


def test_a_change_between_http_and_https_takes_a_restart(
    engine: SimulatedEngine, folder: Path, tmp_path: Path
) -> None:
    document: dict[str, Any] = {"server": {"port": free_port()}, "instances": [{"url": engine.url}]}
    file, plain = tmp_path / "config.yaml", f"http://127.0.0.1:{document['server']['port']}"
    file.write_text(json.dumps(document))
    try:
        assert f"running at {plain}" in sage(tmp_path, "start", "--background").stdout
        document["server"] |= tls(folder)["server"]
        file.write_text(json.dumps(document))
        words = " ".join(sage(tmp_path, "reload").stderr.split())
        assert "server.tls_cert, server.tls_key take effect only at a restart" in words
        assert f"until then the gateway stays at {plain}" in words
        done = sage(tmp_path, "restart")
        secure = plain.replace("http:", "https:")
        assert f"running at {secure}" in done.stdout, done.stderr
        assert httpx.get(f"{secure}/health", verify=False, trust_env=False).status_code == 200
    finally:
        assert sage(tmp_path, "stop").returncode == 0
