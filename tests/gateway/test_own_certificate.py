"""Files of a certificate that are replaced while callers are served."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from sage_inference.config.certificate import CertificateError
from sage_inference.config.settings import ServerSettings
from sage_inference.gateway import own_certificate
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok, raw, sse
from tests.support.tls import Authority, Certificate, TlsCaller, self_signed, trusting

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
WHOLE = b'{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}]}'


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Certificate]:
    folder = tmp_path_factory.mktemp("pairs")
    return [self_signed(folder, name) for name in ("a", "b", "c", "d", "e")]


def by_rename(pair: Certificate, folder: Path) -> None:
    """As most programs write files."""
    for file, name in ((pair.key, "key.pem"), (pair.chain, "cert.pem")):
        shutil.copy(file, folder / "draft")
        (folder / "draft").rename(folder / name)


def in_place(pair: Certificate, folder: Path) -> None:
    (folder / "cert.pem").write_bytes(pair.chain.read_bytes())
    (folder / "key.pem").write_bytes(pair.key.read_bytes())


def by_links_of_its_own(pair: Certificate, folder: Path) -> None:
    """As certbot does: each file is a link into an archive, and is made to point to a new file there."""
    for file, name in ((pair.chain, "cert.pem"), (pair.key, "key.pem")):
        (folder / name).unlink()
        (folder / name).symlink_to(file)


def by_a_link_of_the_folder(pair: Certificate, folder: Path) -> None:
    """As Kubernetes does: the files are links through ``..data``, which is swapped at once."""
    version = folder / f"..{pair.chain.stem}"
    version.mkdir()
    shutil.copy(pair.chain, version / "cert.pem")
    shutil.copy(pair.key, version / "key.pem")
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").replace(folder / "..data")
    for name in ("cert.pem", "key.pem"):
        if (folder / name).readlink() != Path("..data") / name if (folder / name).is_symlink() else True:
            (folder / "draft").symlink_to(Path("..data") / name)
            (folder / "draft").replace(folder / name)


WAYS: list[Callable[[Certificate, Path], None]] = [
    by_rename,
    in_place,
    by_links_of_its_own,
    by_a_link_of_the_folder,
]


@contextmanager
def serving(engine: RogueEngine, folder: Path, first: Certificate) -> Iterator[InProcess]:
    shutil.copy(first.chain, folder / "cert.pem")
    shutil.copy(first.key, folder / "key.pem")
    server = ServerSettings(tls_cert=str(folder / "cert.pem"), tls_key=str(folder / "key.pem"))
    with gateway(engine, server=server) as g:
        yield g


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_certificate, "LOOK_S", 0.02)


def until_taken(g: InProcess, before: str) -> str:
    g.until(lambda r: r.gateway.certificate is not None and r.gateway.certificate.current.sha256 != before)
    return current(g)


def current(g: InProcess) -> str:
    return g.ask(lambda r: r.gateway.certificate.current.sha256 if r.gateway.certificate else "")


@dataclass
class Load:
    """Callers of the SDK: one keeps its connections, one makes a connection for each request, one streams."""

    base_url: str
    context: Any
    over: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    done: list[int] = field(default_factory=lambda: [0, 0, 0])

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._call, args=(number,)) for number in range(3)]
        for thread in self.threads:
            thread.start()

    def _call(self, number: int) -> None:
        http = openai.DefaultHttpxClient(trust_env=False, verify=self.context)
        with openai.OpenAI(
            base_url=self.base_url,
            api_key="none",
            max_retries=0,
            http_client=http,
            default_headers={"connection": "close"} if number == 1 else {},
        ) as client:
            while not self.over.is_set():
                try:
                    answer: Any = client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": "hi"}], stream=number == 2
                    )
                    assert number != 2 or len(list(answer)) == 2
                    self.done[number] += 1
                except Exception as error:
                    self.failures.append(error)
                    return

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(10)


def test_a_certificate_renewed_under_load_drops_no_request(pairs: list[Certificate], tmp_path: Path) -> None:
    event = '{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}'

    def answer(wire: Any) -> None:
        if b'"stream":true' in wire.body.replace(b" ", b""):
            raw(sse(event, event, "[DONE]") + b"0\r\n\r\n")(wire)
        else:
            ok(WHOLE)(wire)

    with RogueEngine(answer) as engine, serving(engine, tmp_path, pairs[0]) as g:
        load = Load(f"https://localhost:{g.port}/v1", trusting(*pairs))
        seen = [current(g)]
        with TlsCaller(g.port, trusting(pairs[0])) as oldest:
            for way, pair in zip(WAYS, pairs[1:], strict=True):
                way(pair, tmp_path)
                seen.append(until_taken(g, seen[-1]))
                with TlsCaller(g.port, trusting(pair)) as new:
                    assert new.send(HEALTH).reply().status == 200
                    assert new.sha256 == seen[-1]
                until_more_are_done(g, load, list(load.done))
            assert oldest.send(HEALTH).reply().status == 200  # still on the first certificate
        load.end()
    assert load.failures == []
    assert len(set(seen)) == len(WAYS) + 1


def until_more_are_done(g: InProcess, load: Load, before: list[int]) -> None:
    g.until(lambda _: load.failures or all(map(int.__lt__, before, load.done)))


def replaced_by_a_folder(pair: Certificate, folder: Path) -> None:
    (folder / "key.pem").unlink()
    (folder / "key.pem").mkdir()


BROKEN: dict[str, Callable[[Certificate, Path], object]] = {
    "only the certificate": lambda pair, folder: shutil.copy(pair.chain, folder / "cert.pem"),
    "only the key": lambda pair, folder: shutil.copy(pair.key, folder / "key.pem"),
    "half a file": lambda pair, folder: (folder / "cert.pem").write_bytes(pair.chain.read_bytes()[:200]),
    "empty": lambda pair, folder: (folder / "key.pem").write_bytes(b""),
    "gone": lambda pair, folder: (folder / "cert.pem").rename(folder / "away.pem"),
    "a folder": replaced_by_a_folder,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_pair_that_cannot_be_used_is_logged_once_and_the_old_one_stays(
    how: str, pairs: list[Certificate], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with RogueEngine(ok()) as engine, serving(engine, tmp_path, pairs[0]) as g:
        first = current(g)
        BROKEN[how](pairs[1], tmp_path)

        def logged() -> list[logging.LogRecord]:
            return [r for r in caplog.records if "the old ones stay" in r.getMessage()]

        g.until(lambda _: logged())
        looks = threading.Event()
        threading.Timer(0.1, looks.set).start()  # some looks more
        looks.wait(5)
        assert len(logged()) == 1
        assert not logged()[0].exc_info
        with TlsCaller(g.port, trusting(pairs[0])) as caller:
            assert caller.send(HEALTH).reply().status == 200
        if (tmp_path / "key.pem").is_dir():
            (tmp_path / "key.pem").rmdir()
        by_rename(pairs[1], tmp_path)
        assert until_taken(g, first) != first


def test_a_new_certificate_that_has_expired_is_not_taken(tmp_path: Path, pairs: list[Certificate]) -> None:
    expired = Authority(tmp_path, "ca").issue(days=-1)
    with RogueEngine(ok()) as engine, serving(engine, tmp_path, pairs[0]) as g:
        by_rename(expired, tmp_path)
        with pytest.raises(CertificateError, match="expired on"):
            g.ask(lambda r: r.reload())
        with TlsCaller(g.port, trusting(pairs[0])) as caller:
            assert caller.send(HEALTH).reply().status == 200


def test_files_that_are_broken_do_not_keep_engines_that_were_found_away(
    tmp_path: Path, pairs: list[Certificate]
) -> None:
    """A search takes its findings over as a reload does, but reads no file again."""
    with RogueEngine(ok()) as engine, serving(engine, tmp_path, pairs[0]) as g:
        (tmp_path / "key.pem").write_bytes(b"")
        g.ask(lambda r: r._take_over(r._complete(r._loaded)))
        with pytest.raises(CertificateError):
            g.ask(lambda r: r.reload())


def test_the_end_of_a_certificate_is_logged_once_when_it_comes_near_and_when_it_has_come(
    pairs: list[Certificate], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerSettings(tls_cert=str(pairs[0].chain), tls_key=str(pairs[0].key))
    own = own_certificate.OwnCertificate(server, lambda _: None)
    ends_at = own.current.ends_at
    for left, words in ((7200, []), (3600, []), (-1, ["expired"])):
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda now=ends_at - left: now)
            own._log_remarks()
            own._log_remarks()
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == 1 + len(words)
        assert (words or ["expires on"])[0] in found[-1]


def test_reload_takes_other_files_and_names_the_settings(tmp_path: Path, pairs: list[Certificate]) -> None:
    with RogueEngine(ok()) as engine, serving(engine, tmp_path, pairs[0]) as g:
        server = replace(g.settings_to_load.server, tls_cert=str(pairs[1].chain), tls_key=str(pairs[1].key))
        g.settings_to_load = replace(g.settings_to_load, server=server)
        outcome = g.ask(lambda r: r.reload())
        assert (outcome.settings, outcome.needs_restart) == (["server.tls_cert", "server.tls_key"], [])
        with TlsCaller(g.port, trusting(pairs[1])) as caller:
            assert caller.send(HEALTH).reply().status == 200
        assert g.ask(lambda r: r.reload()).settings == []


def test_a_certificate_without_a_successor_stays_in_memory(tmp_path: Path, pairs: list[Certificate]) -> None:
    """Reading both files again and again would cost time, and every caller a full handshake."""
    with RogueEngine(ok()) as engine, serving(engine, tmp_path, pairs[0]) as g:
        before = g.ask(lambda r: id(r.gateway.certificate.current.context))  # type: ignore[union-attr]
        assert g.ask(lambda r: r.reload()).settings == []
        assert g.ask(lambda r: id(r.gateway.certificate.current.context)) == before  # type: ignore[union-attr]
