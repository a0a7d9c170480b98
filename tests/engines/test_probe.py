"""What engines say of their prefix cache and their vectors, over real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from sage_inference.engines.probe import kv_cache_tokens, probe_vector
from tests.support.simulators import simulated_engine


@contextmanager
def server(answer: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def cache_of(url: str) -> int | None:
    async def ask() -> int | None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            return await kv_cache_tokens(client, url, None, 5)

    return asyncio.run(ask())


def vector_of(url: str, model: str = "m") -> list[float] | None:
    async def ask() -> list[float] | None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            return await probe_vector(client, url, model, "text", None, 5)

    return asyncio.run(ask())


LINES = {
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n': 1600,
    b'# x\nvllm:cache_config_info{a="1",block_size="16",kv_cache_size_tokens="5000",num_gpu_blocks="1"} 1\n': 5000,
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="None",kv_cache_size_tokens="None"} 1.0\n': None,
    b'vllm:cache_config_info{hash_block_size="16",num_gpu_blocks="9"} 1.0\n': None,
    b"other 1\n": None,
}


@pytest.mark.parametrize(("page", "tokens"), LINES.items())
def test_the_cache_is_as_large_as_the_metrics_say(page: bytes, tokens: int | None) -> None:
    with server(page) as url:
        assert cache_of(url) == tokens


def test_an_engine_without_metrics_does_not_say() -> None:
    with server(b"no", 404) as url:
        assert cache_of(url) is None
    assert cache_of("http://127.0.0.1:9") is None


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"data":[]}', b'{"data":[{"embedding":"AAAA"}]}', b"no"])
def test_what_is_no_vector_is_none(answer: bytes) -> None:
    with server(answer) as url:
        assert vector_of(url) is None


def test_the_simulated_engines_say_it() -> None:
    with simulated_engine("vllm", "--kv-cache-tokens", "64000") as engine:
        assert cache_of(engine.url) == 64000
    with simulated_engine("tei") as engine:
        assert len(vector_of(engine.url) or ()) > 0
