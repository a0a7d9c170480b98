"""A taken port whose holder is an engine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sage_inference.daemon.occupant import engine_hint
from tests.support.command import sage

VLLM = json.dumps({"object": "list", "data": [{"id": "org/qwen", "object": "model", "owned_by": "vllm"}]})
OTHER = json.dumps({"data": [{"id": "llama3:latest", "owned_by": "library"}]})
TEI = json.dumps({"model_id": "BAAI/bge-m3", "max_client_batch_size": 32})


@contextmanager
def server(answers: Mapping[str, str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, "").encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"/v1/models": VLLM}, "that is a vLLM serving org/qwen: sage inference start --llm-backend http://"),
        (
            {"/info": TEI},
            "that is a TEI serving BAAI/bge-m3: sage inference start --embedding-backend http://",
        ),
        ({"/v1/models": OTHER}, "that is a server of OpenAI's API serving llama3:latest: "),
        ({"/v1/models": '{"data": []}'}, None),
        ({"/v1/models": "[" * 100_000}, None),
        ({"/v1/models": '{"data": ["x"]}'}, None),
        ({"/": "hello"}, None),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_engine_is_named_with_the_command_to_use_it(
    answers: Mapping[str, str], says: str | None, host: str
) -> None:
    with server(answers) as port:
        hint = engine_hint(host, port)
        assert hint is None if says is None else hint is not None and hint.startswith(says)
        assert hint is None or f"http://127.0.0.1:{port} --port OTHER" in hint


def test_a_silent_holder_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert engine_hint("127.0.0.1", silent.getsockname()[1]) is None
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("more", [(), ("--background",)])
def test_start_on_the_port_of_an_engine_names_it(tmp_path: Path, more: tuple[str, ...]) -> None:
    with server({"/v1/models": VLLM}) as port:
        ended = sage(tmp_path, "start", "--port", str(port), *more)
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken by" in ended.stderr
    assert "that is a vLLM serving org/qwen" in ended.stderr.splitlines()[-1]
