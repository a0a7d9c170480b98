"""The ``anthropic`` SDK against the gateway: its own typed errors, and no half an answer that looks whole."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

anthropic = pytest.importorskip("anthropic")

MODEL = "simulated-llm"
HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(engine: SimulatedEngine) -> Iterator[Gateway]:
    config = {"api_keys": [{"key": "sk-good"}], "limits": {"body_bytes": 100_000}}
    with running_gateway(engine.url, config=config) as gateway:
        yield gateway


@contextmanager
def http10(gateway: Gateway) -> Iterator[str]:
    """A proxy as nginx is by default: it asks over HTTP/1.0, and takes the connection's end for the answer's."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            lines = [f"POST {self.path} HTTP/1.0", "host: 127.0.0.1", f"content-length: {len(body)}"]
            for name in ("authorization", "x-api-key", "content-type"):
                lines += [f"{name}: {value}" for value in self.headers.get_all(name, ())]
            with socket.create_connection(("127.0.0.1", gateway.port), 20) as sock:
                sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
                answer = sock.makefile("rb")
                status = int(answer.readline().split()[1])
                self.send_response(status)
                while (line := answer.readline().strip()) != b"":
                    name, _, value = line.decode().partition(": ")
                    if name not in ("connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                while piece := answer.read1(65536):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def sdk(url: str, key: str = "sk-good") -> Any:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=30)


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "through a proxy"])
@pytest.mark.parametrize("cut_after", [1, 4])
def test_a_stream_whose_engine_dies_raises_with_the_reason(
    engine: SimulatedEngine, gateway: Gateway, cut_after: int, proxied: bool
) -> None:
    engine.faults(reset_after_chunks=cut_after)
    try:
        with http10(gateway) as proxy, sdk(proxy if proxied else gateway.url) as client:
            stream = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, stream=True)
            with pytest.raises(anthropic.APIStatusError) as raised:
                for _ in stream:
                    pass
    finally:
        engine.heal()
    assert raised.value.body["error"]["type"] == "api_error"
    assert "before its answer ended" in raised.value.body["error"]["message"]


def test_a_whole_stream_is_as_ever(gateway: Gateway) -> None:
    with http10(gateway) as proxy:
        for url in (gateway.url, proxy):
            with sdk(url) as client:
                stream = client.messages.create(model=MODEL, max_tokens=5, messages=HELLO, stream=True)
                assert list(stream)[-1].type == "message_stop"


def test_its_typed_errors_are_raised(gateway: Gateway) -> None:
    with sdk(gateway.url) as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(model="other", max_tokens=5, messages=HELLO)
        assert missing.value.type == "not_found_error"
        assert 'serves model "other"' in missing.value.api_message
        assert missing.value.request_id == missing.value.body["request_id"]
        with pytest.raises(anthropic.APIStatusError) as large:
            client.messages.create(
                model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x" * 200_000}]
            )
        assert (large.value.status_code, large.value.type) == (413, "request_too_large")
    with sdk(gateway.url, "sk-bad") as client, pytest.raises(anthropic.AuthenticationError) as wrong:
        client.messages.create(model=MODEL, max_tokens=5, messages=HELLO)
    assert wrong.value.type == "authentication_error"


def test_an_error_parses_as_the_sdks_own_model(gateway: Gateway) -> None:
    with sdk(gateway.url) as client, pytest.raises(anthropic.APIStatusError) as raised:
        client.messages.create(model="other", max_tokens=5, messages=HELLO)
    from anthropic.types.shared import ErrorResponse

    parsed = ErrorResponse.model_validate_json(json.dumps(raised.value.body), strict=True)
    assert parsed.error.type == "not_found_error"
