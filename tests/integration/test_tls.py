"""Engines whose certificate a private authority signed: every part of the program trusts the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import sage_inference as si
from sage_inference import trust
from sage_inference.config.settings import InstanceSettings
from sage_inference.types import EngineState
from tests.support.command import sage
from tests.support.gateway import free_port
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.simulators import SimulatedEngine
from tests.support.tls import LOCAL, Authority, Certificate, tls_front


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "root")


@pytest.fixture(scope="module")
def good(ca: Authority) -> Certificate:
    return ca.issue()


@pytest.fixture(autouse=True)
def no_trust_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def state(g: InProcess, name: str = "e0") -> EngineState:
    return g.ask(lambda r: r.gateway.engines[name].instance.state)


def error(g: InProcess, name: str = "e0") -> str:
    return g.ask(lambda r: r.gateway.engines[name].last_error) or ""


def instances(*urls: str, ca_file: Path | None = None) -> tuple[InstanceSettings, ...]:
    told = None if ca_file is None else str(ca_file)
    return tuple(InstanceSettings(url=url, name=f"e{n}", ca_file=told) for n, url in enumerate(urls))


def use_all(url: str) -> None:
    """A chat, a stream and vectors, by both clients."""
    with si.UnifiedInferenceClient(url) as client:
        assert client.is_llm_available()
        assert client.chat("hi", max_tokens=3)
        assert "".join(client.chat("hi", max_tokens=3, stream=True))

    async def use() -> None:
        async with si.AsyncUnifiedInferenceClient(url) as client:
            assert await client.is_llm_available()
            assert await client.chat("hi", max_tokens=3)
            assert [piece async for piece in await client.chat("hi", max_tokens=3, stream=True)]

    asyncio.run(use())


@pytest.mark.parametrize("how", ["file", "directory"])
def test_what_the_environment_trusts_counts_everywhere(
    how: str,
    ca: Authority,
    good: Certificate,
    vllm: SimulatedEngine,
    tei: SimulatedEngine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name, value = ("SSL_CERT_FILE", ca.file) if how == "file" else ("SSL_CERT_DIR", ca.hashed_folder())
    monkeypatch.setenv(name, str(value))
    with tls_front(vllm.port, good) as chat, tls_front(tei.port, good) as embed:
        use_all(chat.url)
        with gateway(*instances(chat.url, embed.url)) as g:
            g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
            use_all(g.url)
            with si.UnifiedInferenceClient(g.url) as client:
                assert len(client.embed(["one", "two"])) == 2
        bench = ("bench", "--url", chat.url, "--requests", "3", "--concurrency", "1", "--no-ceiling")
        env: dict[str, Any] = {name: str(value)}
        done = sage(tmp_path, *bench, **env)
        assert done.returncode == 0, done.stderr + done.stdout


def test_the_systems_store_is_trusted(ca: Authority, good: Certificate, vllm: SimulatedEngine) -> None:
    """In a mount namespace of its own, the folder that OpenSSL was built with holds the authority."""
    import ssl

    store = ssl.get_default_verify_paths().openssl_capath
    folder = Path(store).resolve()
    if not folder.is_dir() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this system cannot show a process another store")
    made = ca.hashed_folder()
    code = f'mount --bind {made} {folder} && exec {sys.executable} -c "$0" $1'
    program = "import sys; from tests.integration.test_tls import use_all; use_all(sys.argv[1])"
    with tls_front(vllm.port, good) as front:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", code, program, front.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_ca_file_is_trusted_for_its_instance_alone(
    ca: Authority, good: Certificate, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    with tls_front(vllm.port, good) as chat, tls_front(tei.port, good) as embed:
        [own], [_, none] = instances(chat.url, ca_file=ca.file), instances("http://x:1", embed.url)
        with gateway(own, none) as g:
            use_all(g.url)
            assert (state(g), state(g, "e1")) == (EngineState.READY, EngineState.EJECTED)
            for word in ("not trusted", "SSL_CERT_FILE", "ca_file"):
                assert word in error(g, "e1")
            both = instances(chat.url, embed.url, ca_file=ca.file)
            g.settings_to_load = replace(g.settings_to_load, instances=both)
            assert g.ask(lambda r: r.reload()).changed == ["e1"]
            g.until(lambda r: r.gateway.engines["e1"].instance.state is EngineState.READY)
            with si.UnifiedInferenceClient(g.url) as client:
                assert len(client.embed(["one", "two"])) == 2


@pytest.mark.parametrize("trusted", ["root", "intermediate"])
def test_chain_with_an_intermediate(
    trusted: str, ca: Authority, vllm: SimulatedEngine, tmp_path: Path
) -> None:
    between = Authority(tmp_path, "between", ca)
    with tls_front(vllm.port, between.issue()) as front:
        file = ca.file if trusted == "root" else between.file
        with gateway(*instances(front.url, ca_file=file)) as g:
            use_all(g.url)


def test_certificate_of_its_own_and_several_in_one_file(
    ca: Authority, good: Certificate, vllm: SimulatedEngine, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    several = tmp_path / "several.pem"
    several.write_bytes(
        "# Größe\n".encode("latin-1") + other.file.read_bytes() + b"\n" + ca.file.read_bytes()
    )
    for file in (several, good.chain):
        with tls_front(vllm.port, good) as front, gateway(*instances(front.url, ca_file=file)) as g:
            assert state(g) is EngineState.READY


BAD = {
    "other authority": ("trusted", "ca_file", "SSL_CERT_FILE"),
    "expired": ("not valid any more", "renew"),
    "other name": ("another name", "localhost", "use a name"),
}


@pytest.mark.parametrize("how", BAD)
def test_refused_certificate_is_explained_by_each_part(
    how: str, ca: Authority, vllm: SimulatedEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = {
        "other authority": lambda: Authority(tmp_path, "other").issue(),
        "expired": lambda: ca.issue(LOCAL, -1),
        "other name": lambda: ca.issue("DNS:engine.example,IP:192.0.2.1"),
    }[how]()
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.file))
    with tls_front(vllm.port, certificate) as front:
        with gateway(*instances(front.url)) as g:
            assert state(g) is EngineState.EJECTED
            answer = httpx.post(
                f"{g.url}/v1/chat/completions",
                json={"model": "simulated-llm", "messages": []},
                trust_env=False,
            )
            assert answer.status_code in (404, 502, 503)
            told = [error(g)]
        with si.UnifiedInferenceClient(front.url) as client:
            assert not client.is_llm_available()
            with pytest.raises(si.InferenceConnectionError) as caught:
                client.chat("hi", max_tokens=1)
            told.append(str(caught.value))
        done = sage(tmp_path, "bench", "--url", front.url, SSL_CERT_FILE=str(ca.file))
        assert done.returncode == 1
        told.append(" ".join(done.stderr.split()))
        for text in told:
            for word in BAD[how]:
                assert word in text, (text, word)


def test_relay_explains_a_certificate_that_changed(
    ca: Authority, good: Certificate, vllm: SimulatedEngine, tmp_path: Path
) -> None:
    """A probe has not seen it yet: the request itself meets it."""
    body = {"model": "simulated-llm", "messages": [{"role": "user", "content": "x"}]}
    with tls_front(vllm.port, good) as front, gateway(*instances(front.url, ca_file=ca.file)) as g:
        front.show(Authority(tmp_path, "other").issue())
        answer = httpx.post(f"{g.url}/v1/chat/completions", json=body, trust_env=False)
        assert answer.status_code in (502, 503)
        assert "its certificate is not trusted" in answer.text


def test_http_engine_called_https_is_explained(vllm: SimulatedEngine) -> None:
    with gateway(*instances(f"https://127.0.0.1:{vllm.port}")) as g:
        assert "http:// rather than https://" in error(g)


def test_reload_takes_a_changed_file_over(
    ca: Authority, good: Certificate, vllm: SimulatedEngine, tmp_path: Path
) -> None:
    file = tmp_path / "trusted.pem"
    file.write_bytes(Authority(tmp_path, "other").file.read_bytes())
    with tls_front(vllm.port, good) as front, gateway(*instances(front.url, ca_file=file)) as g:
        assert state(g) is EngineState.EJECTED
        file.write_bytes(ca.file.read_bytes())
        assert g.ask(lambda r: r.reload()).changed == ["e0"]
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.READY)
        use_all(g.url)
        assert g.ask(lambda r: r.reload()).changed == []


UNUSABLE = {
    "missing": (None, "no such file"),
    "folder": ("folder", "is a directory"),
    "empty": (b"", "no certificate in PEM form"),
    "words": (b"hello", "no certificate in PEM form"),
    "key": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "only other PEM"),
    "damaged": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged"),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_unusable_ca_file_is_named_with_the_reason(how: str, tmp_path: Path) -> None:
    content, reason = UNUSABLE[how]
    file = tmp_path / "ca.pem"
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    entry = {"url": "https://localhost:9", "name": "e", "ca_file": str(file)}
    (tmp_path / "config.yaml").write_text(f"instances: [{entry}]\n")
    done = sage(tmp_path, "config", "validate", "--config", str(tmp_path / "config.yaml"))
    text = " ".join((done.stderr + done.stdout).split())
    assert done.returncode != 0
    assert "instances[0].ca_file" in text
    assert reason.lower() in text.lower(), text
    with gateway() as g:
        answer = httpx.post(f"{g.url}/admin/instances", json=entry, headers=ADMIN, trust_env=False)
        assert answer.status_code == 400
        assert str(file) in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_unusable_variable_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(trust.TrustError, match=f"{name} names .*: no such"):
        trust.context()
    with si.UnifiedInferenceClient("https://localhost:9") as client:
        assert not client.is_llm_available()
        with pytest.raises(si.InferenceConnectionError, match=name):
            client.chat("hi")
    with gateway(*instances("https://localhost:9")) as g:
        assert name in error(g)


def test_no_certificates_are_loaded_without_tls(vllm: SimulatedEngine, tmp_path: Path) -> None:
    loaded = trust._context.cache_info().misses
    with gateway(vllm) as g:
        use_all(g.url)
    assert trust._context.cache_info().misses == loaded


def embedder(port: int, **fields: Any) -> si.ExecutionInstance:
    return si.ExecutionInstance(
        "e", "localhost", port, "simulated-embedding", "embedding", scheme="https", **fields
    )


async def embeds(instance: si.ExecutionInstance) -> bool:
    """Whether the executor gets vectors of it; its health check says the same."""
    async with si.EmbeddingExecutor() as executor:
        healthy = await executor.health_check(instance)
        try:
            result = await executor.execute_embedding(["one", "two"], instance)
        except si.EmbeddingInstanceUnavailableError as error:
            return healthy or "certificate is not trusted" not in str(error)
        assert healthy
        assert len(result.embeddings) == 2
        return True


@pytest.mark.parametrize("how", ["ca_file", "SSL_CERT_FILE", "SSL_CERT_DIR", "nothing", "another"])
def test_embedding_executor_trusts_what_the_relay_trusts(
    how: str,
    ca: Authority,
    good: Certificate,
    tei: SimulatedEngine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    told = None
    if how.startswith("SSL"):
        monkeypatch.setenv(how, str(ca.file if how == "SSL_CERT_FILE" else ca.hashed_folder()))
    elif how != "nothing":
        told = str(ca.file if how == "ca_file" else Authority(tmp_path, "other").file)
    with tls_front(tei.port, good) as front:
        trusted = asyncio.run(embeds(embedder(front.port, ca_file=told)))
    assert trusted == (how not in ("nothing", "another"))


def test_embedding_executor_trusts_each_instance_alone(
    ca: Authority, good: Certificate, tei: SimulatedEngine
) -> None:
    async def ask(port: int) -> None:
        plain = si.ExecutionInstance("p", tei.host, tei.port, "simulated-embedding", "embedding")
        async with si.EmbeddingExecutor() as executor:
            for instance, right in (
                (embedder(port, ca_file=str(ca.file)), True),
                (embedder(port), False),
                (plain, True),
                (embedder(port, ca_file=str(ca.file)), True),
            ):
                assert await executor.health_check(instance) == right

    with tls_front(tei.port, good) as front:
        asyncio.run(ask(front.port))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"host": "http://localhost"}, "cannot be reached"),
        ({"host": "a b"}, "cannot be reached"),
    ],
)
def test_embedding_executor_explains_what_cannot_be_reached(fields: dict[str, Any], words: str) -> None:
    async def ask() -> None:
        given = {"host": "localhost", "port": 9, "model_name": "m", "scheme": "https", **fields}
        instance = si.ExecutionInstance("e", **given)
        async with si.EmbeddingExecutor() as executor:
            assert not await executor.health_check(instance)
            with pytest.raises(si.EmbeddingInstanceUnavailableError, match=words):
                await executor.execute_embedding(["x"], instance)

    asyncio.run(ask())


def test_instances_of_a_gateway_are_reached_by_their_own_address(
    ca: Authority, good: Certificate, tei: SimulatedEngine
) -> None:
    """An instance that the fleet made has its scheme, prefix and certificates."""
    with tls_front(tei.port, good) as front, gateway(*instances(front.url, ca_file=ca.file)) as g:
        instance = g.ask(lambda r: r.gateway.engines["e0"].instance)
        assert instance.base_url == front.url
        assert asyncio.run(embeds(instance))


BACKENDS: dict[str, Callable[[int, str], Any]] = {
    "fields": lambda port, ca: si.BackendInstanceConfig("localhost", port, scheme="https", ca_file=ca),
    "mapping": lambda port, ca: {"base_url": f"https://localhost:{port}/v1", "ca_file": ca},
    "mapping of fields": lambda port, ca: {
        "host": "localhost",
        "port": port,
        "scheme": "HTTPS",
        "ca_file": ca,
    },
    "instance": lambda port, ca: si.ExecutionInstance("e", "localhost", port, scheme="https", ca_file=ca),
}


@pytest.mark.parametrize("how", BACKENDS)
def test_control_plane_of_a_program_reaches_them(
    how: str, ca: Authority, good: Certificate, vllm: SimulatedEngine
) -> None:
    async def ask(port: int) -> None:
        async with si.ControlPlaneManager() as manager:
            manager.register_instance(BACKENDS[how](port, str(ca.file)))
            request = si.RequestMetadata("r", prompt="hi", model_name="simulated-llm", max_tokens=2)
            result = await asyncio.wait_for(manager.submit_request(request), 20)
            assert result.content

    with tls_front(vllm.port, good) as front:
        asyncio.run(ask(front.port))


@pytest.mark.parametrize("how", [how for how in BACKENDS if how != "instance"])
def test_server_of_a_program_reaches_them(
    how: str, ca: Authority, good: Certificate, vllm: SimulatedEngine
) -> None:
    with tls_front(vllm.port, good) as front:
        backend = BACKENDS[how](front.port, str(ca.file))
        with si.UnifiedAPIServer(si.UnifiedServerConfig(port=free_port(), llm_backends=[backend])) as server:
            use_all(server.url)


def test_scheme_and_prefix_are_part_of_an_address() -> None:
    instance = si.ExecutionInstance("e", "::1", 8443, scheme="HTTPS", prefix="/llama")
    assert instance.base_url == "https://[::1]:8443/llama"
    assert si.BackendInstanceConfig("h", 1, scheme="https", prefix="/x").base_url == "https://h:1/x"
    assert si.ExecutionInstance("e", "h", 1).base_url == "http://h:1"
    for make in (
        lambda s: si.ExecutionInstance("e", "h", 1, scheme=s),
        lambda s: si.BackendInstanceConfig(scheme=s),
    ):
        for scheme in ("ftp", "", "https://"):
            with pytest.raises(ValueError, match="http or https"):
                make(scheme)


PARTS: list[Callable[..., Any]] = [
    lambda **parts: si.ExecutionInstance("e", "h", 1, **parts),
    lambda **parts: si.BackendInstanceConfig("h", 1, **parts),
]


@pytest.mark.parametrize("make", PARTS, ids=["instance", "backend"])
@pytest.mark.parametrize(
    ("prefix", "base_url"),
    [
        ("/a", "http://h:1/a"),
        ("/a/", "http://h:1/a"),
        ("/a/b", "http://h:1/a/b"),
        ("/a/v1", "http://h:1/a"),
        ("/v1/", "http://h:1"),
        ("/v1", "http://h:1"),
        ("/", "http://h:1"),
        ("", "http://h:1"),
        (None, "http://h:1"),
    ],
)
def test_a_prefix_is_read_as_the_path_of_a_url_is(
    make: Callable[..., Any], prefix: str, base_url: str
) -> None:
    """Each call's route begins with /v1: an engine does not know /v1/v1/embeddings, nor //v1/embeddings."""
    assert make(prefix=prefix).base_url == base_url


@pytest.mark.parametrize("make", PARTS, ids=["instance", "backend"])
@pytest.mark.parametrize("prefix", ["a", "a/b", "/a b", "/a?x=1", "/a#b", "//a", 7])
def test_a_prefix_that_is_no_path_is_refused_at_once(make: Callable[..., Any], prefix: Any) -> None:
    with pytest.raises(ValueError, match="prefix must be a path like /llama"):
        make(prefix=prefix)


@pytest.mark.parametrize("make", PARTS, ids=["instance", "backend"])
@pytest.mark.parametrize("scheme", [None, 7, b"http"])
def test_a_scheme_that_is_no_text_is_refused_as_any_other(make: Callable[..., Any], scheme: Any) -> None:
    with pytest.raises(ValueError, match="http or https"):
        make(scheme=scheme)
