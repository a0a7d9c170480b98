"""A server that answers GETs with recorded answers of real engines, on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "fixtures" / "engines"


def recorded(name: str) -> tuple[int, bytes]:
    """Status and body of a record such as ``vllm/002_models``."""
    response: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())["response"]
    return response["status"], response["body"].encode()


@contextlib.contextmanager
def replay(answers: Mapping[str, tuple[int, bytes] | None]) -> Iterator[str]:
    """The URL of a server that answers each path as told, 404 to the rest; None is silence."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = answers.get(self.path, answers.get("*", (404, b'{"detail":"Not Found"}')))
            if answer is None:
                over.wait(30)
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
