"""An engine whose models, routes and answers can change while it runs, as servers that load on demand have them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = tuple[int, Any]
NO_ROUTE: Reply = (404, {"detail": "Not Found"})


class ListingEngine:
    """``post`` answers a request by path and document; every POST and GET is written down."""

    def __init__(
        self,
        *models: str,
        post: Callable[[str, dict[str, Any]], Reply] = lambda path, document: NO_ROUTE,
        owner: str = "library",
        routes: Sequence[str] = (),
        card: dict[str, Any] | None = None,
        gets: dict[str, Any] | None = None,
        under: str = "/v1",
    ) -> None:
        self.models = list(models)
        self.answer = post
        self.posts: list[tuple[str, str]] = []  # path and model
        self.gets: list[str] = []
        self.listed = threading.Semaphore(0)  # released each time its models are asked for
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _send(self, status: int, document: Any) -> None:
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                engine.gets.append(self.path)
                known: dict[str, Any] = {"/health": {}, **(gets or {})}
                if routes:
                    known["/openapi.json"] = {"paths": {route: {} for route in routes}}
                if self.path == f"{under}/models":
                    cards = [
                        {"id": m, "object": "model", "owned_by": owner, **(card or {})} for m in engine.models
                    ]
                    self._send(200, {"object": "list", "data": cards})
                    engine.listed.release()
                elif self.path in known:
                    self._send(200, known[self.path])
                else:
                    self._send(*NO_ROUTE)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                try:
                    document = json.loads(body)
                except ValueError:
                    document = {}
                engine.posts.append((self.path, str(document.get("model"))))
                self._send(*engine.answer(self.path, document))

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def vectors(*numbers: float, of: Sequence[str] = ()) -> Callable[[str, dict[str, Any]], Reply]:
    """Answers requests for vectors of the models ``of`` (or all) with one vector a text, and chats with "hello"."""

    def post(path: str, document: dict[str, Any]) -> Reply:
        model = document.get("model")
        if path.endswith("/embeddings") and (not of or model in of):
            texts = document["input"] if isinstance(document["input"], list) else [document["input"]]
            data = [{"index": i, "embedding": list(numbers)} for i in range(len(texts))]
            return 200, {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 1}}
        if path.endswith("/embeddings"):
            return 400, {"error": {"message": "this model does not support embeddings"}}
        return 200, {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}

    return post
