"""Simulated infinity and llama-server start and fail as the real ones, and detection does not take them for vLLM or TEI."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import httpx
import pytest

from sage_inference.engines.detect import Detected, detect
from sage_inference.engines.query_clients import query_client
from sage_inference.simulator.starting.failures_printed import INFINITY_FAILURES, LLAMA_SERVER_FAILURES
from tests.support.gateway import free_port
from tests.support.starts import client, started

INFINITY_READY = "Uvicorn running on"
LLAMA_READY = "llama_server: listening on"


def infinity(port: int, *options: str) -> tuple[str, ...]:
    address = ("--host", "127.0.0.1", "--port", str(port), "--url-prefix", "/v1")
    return ("v2", "--model-id", "/models/all-MiniLM-L6-v2", "--served-model-name", "mini", *address, *options)


def llama(port: int, *options: str) -> tuple[str, ...]:
    address = ("--host", "127.0.0.1", "--port", str(port))
    return ("-m", "/models/m.gguf", "--alias", "tiny", "-ngl", "0", *address, *options)


def detected(url: str, key: str | None = None) -> Detected:
    async def ask() -> Detected:
        http = query_client()
        try:
            return await detect(http, url, api_key=key)
        finally:
            await http.aclose()

    return asyncio.run(ask())


def test_infinity_refuses_until_it_is_ready_and_embeds(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {"INFINITY_API_KEY": "secret"}
    options = infinity(port, "--load-seconds", "0.4", "--no-bettertransformer", "--no-trust-remote-code")
    with started("infinity", *options, log=tmp_path / "log", environ=environ) as engine:
        engine.wait_for("Waiting for application startup.")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        engine.wait_for(INFINITY_READY)
        found = detected(url, "secret")
        with client(url) as http:
            assert http.get("/health").json().keys() == {"unix"}
            assert http.post("/v1/embeddings", json={"input": "a"}).status_code == 401
            http.headers["authorization"] = "Bearer secret"
            answer = http.post("/v1/embeddings", json={"input": ["a", "b"], "model": "any"}).json()
            assert [len(one["embedding"]) for one in answer["data"]] == [384, 384]
            assert http.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 400
            assert http.post("/v1/embeddings", json={"input": ["a"] * 2049}).status_code == 422
        text = engine.text
        assert engine.stop() == 0
    assert (found.engine.value, [card.id for card in found.models], found.simulated) == (
        "openai",
        ["mini"],
        True,
    )
    assert found.kind.value == "embedding"
    assert max(map(len, text.splitlines())) == 80  # wrapped by Rich
    assert "secret" not in text


def test_llama_server_answers_503_until_its_model_is_loaded(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    with started("llama-server", *llama(port, "--load-seconds", "0.7"), log=tmp_path / "log") as engine:
        engine.wait_for("load_model: loading model")
        with client(url) as http:
            early = http.get("/health"), http.get("/v1/models")
            engine.wait_for(LLAMA_READY)
            assert http.get("/health").json() == {"status": "ok"}
            asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "model": "tiny"}
            answer = http.post("/v1/chat/completions", json=asked).json()
        found = detected(url)
        assert engine.stop() == 0
    assert [(one.status_code, one.json()) for one in early] == [(503, loading)] * 2
    assert answer["usage"]["completion_tokens"] == 2
    assert (found.engine.value, found.models[0].id, found.models[0].max_model_len) == ("openai", "tiny", 4096)
    assert found.simulated


def test_llama_server_listens_on_a_socket_that_its_host_names(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    options = ("-m", "m.gguf", "--host", path, "--embeddings", "-c", "512")
    with started("llama-server", *options, log=tmp_path / "log") as engine:
        engine.wait_for(f"{LLAMA_READY} unix://{path}")
        with client(uds=path) as http:
            assert http.post("/v1/embeddings", json={"input": "a", "model": "m.gguf"}).status_code == 200
            assert http.post("/v1/chat/completions", json={}).status_code == 404


def test_sigterm_ends_a_llama_server_that_loads(tmp_path: Path) -> None:
    options = llama(free_port(), "--fail-with", "stalled")
    with started("llama-server", *options, log=tmp_path / "log") as engine:
        engine.wait_for("srv    load_model: loading model")
        assert engine.stop() == -signal.SIGTERM


@pytest.mark.parametrize("name", ["no_weights", "no_kernel_image"])
def test_failure_of_llama_server(name: str, tmp_path: Path) -> None:
    failure = LLAMA_SERVER_FAILURES[name]
    with started("llama-server", *llama(free_port(), "--fail-with", name), log=tmp_path / "log") as engine:
        assert engine.wait() == (-failure.signal or failure.status)
        assert all(line in engine.text for line in failure.before.splitlines())


@pytest.mark.parametrize("name", ["unknown_model", "oom_killed"])
def test_failure_of_infinity(name: str, tmp_path: Path) -> None:
    failure = INFINITY_FAILURES[name]
    with started("infinity", *infinity(free_port(), "--fail-with", name), log=tmp_path / "log") as engine:
        assert engine.wait() == (-failure.signal or failure.status)
        assert failure.error in engine.text


def test_port_that_is_taken_is_an_error_of_each(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command, options in (("infinity", infinity(port)), ("llama-server", llama(port))):
            with started(command, *options, log=tmp_path / command) as engine:
                assert engine.wait() == 1
        with pytest.raises(httpx.TimeoutException):
            httpx.get(f"http://127.0.0.1:{port}", timeout=0.1, trust_env=False)
