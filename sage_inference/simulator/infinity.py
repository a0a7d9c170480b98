"""A simulated infinity: embeddings and reranking, below a prefix of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sage_inference.simulator import tokens, vectors
from sage_inference.simulator.clock import Clock
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.exchange import Headers, Reply, Request

_MOST_TEXTS = 2048
_MISSING = '{"detail":[{"type":"missing","loc":["body","text","%s"],"msg":"Field required","input":{}}]}'
_TOO_MANY = '{"detail":[{"type":"too_long","loc":["body","text","input"],"msg":"List should have at most %d items after validation, not %d"}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class InfinityOptions:
    """``prefix`` is before all routes but ``/health``. ``capability``: ``embed`` or ``rerank``."""

    models: tuple[str, ...]
    prefix: str = ""
    api_key: str | None = None
    capability: str = "embed"
    dimension: int = 384
    batch_tokens: int = 16384


class SimulatedInfinity:
    kind = "infinity"
    server_header: bytes | None = b"uvicorn"
    drains_open = False

    def __init__(self, options: InfinityOptions, speed: float) -> None:
        self.models = options.models
        self.healthy = True
        self.draining = False
        self._options = options
        self._encoder = Encoder(options.batch_tokens, Clock(speed), serial=True)

    def headers_for(self, request: Request) -> Headers:
        return ()

    def give_up(self) -> None:
        """Do nothing: uvicorn finishes its requests."""

    def figures(self) -> Mapping[str, float]:
        encoder = self._encoder
        return {"waiting": len(encoder.waiting), "texts": encoder.texts, "calls": encoder.calls}

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        return [self._encoder.run()]

    async def handle(self, request: Request, reply: Reply) -> None:
        prefix, path = self._options.prefix, request.path
        if path == "/health":
            status = 200 if self.healthy else 503
            await reply.whole(status, msgspec.json.encode({"unix": time.time()}))
            return
        route = (request.method, path.removeprefix(prefix)) if path.startswith(prefix) else ("", "")
        if route == ("GET", "/openapi.json"):
            await reply.whole(200, msgspec.json.encode(self._openapi()))
        elif route not in {("GET", "/models"), ("POST", "/embeddings"), ("POST", "/rerank")}:
            await reply.whole(404, b'{"detail":"Not Found"}')
        elif not request.shows(self._options.api_key):
            await reply.whole(401, b'{"detail":"Unauthorized"}')
        elif route == ("GET", "/models"):
            await reply.whole(200, msgspec.json.encode(self._list()))
        else:
            await self._work(route[1], request, reply)

    async def _work(self, route: str, request: Request, reply: Reply) -> None:
        try:
            document = msgspec.json.decode(request.body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            await reply.whole(
                422, msgspec.json.encode({"detail": [{"type": "json_invalid", "msg": str(error)}]})
            )
            return
        field = "input" if route == "/embeddings" else "documents"
        given = document.get(field)
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
            await reply.whole(422, (_MISSING % field).encode())
        elif len(texts) > _MOST_TEXTS:
            await reply.whole(422, (_TOO_MANY % (_MOST_TEXTS, len(texts))).encode())
        elif route == "/rerank" and self._options.capability != "rerank":
            text = (
                f"ModelNotDeployedError: model=`{self.models[0]}` does not support `rerank`. Reason: the loaded moded "
                "cannot fullyfill `rerank`. Options are {'embed'}."
            )
            refusal = {"message": text, "type": None, "param": None, "code": 400}
            await reply.whole(400, msgspec.json.encode({"error": refusal}))
        else:
            counts = [len(tokens.pieces(text)) + 2 for text in texts]
            await self._encoder.encode(counts)
            answer = self._vectors if route == "/embeddings" else self._ranks
            found = {
                **answer(texts, document),
                "usage": {"prompt_tokens": sum(counts), "total_tokens": sum(counts)},
            }
            await reply.whole(200, msgspec.json.encode(found))

    def _vectors(self, texts: list[str], document: Mapping[str, Any]) -> dict[str, Any]:
        as_text = document.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(texts):
            vector = vectors.embed(self.models[0], text, self._options.dimension)
            shown: Any = vectors.as_base64(vector) if as_text else vectors.floats(vector)
            data.append({"object": "embedding", "embedding": shown, "index": index})
        about = {"model": self.models[0], "id": f"infinity-{uuid.uuid4()}", "created": int(time.time())}
        return {"object": "list", "data": data, **about}

    def _ranks(self, texts: list[str], document: Mapping[str, Any]) -> dict[str, Any]:
        model, size = self.models[0], self._options.dimension
        query = vectors.embed(model, str(document.get("query")), size)
        scores = [vectors.cosine(query, vectors.embed(model, text, size)) for text in texts]
        ranked = sorted(range(len(texts)), key=lambda i: -scores[i])
        results = [{"relevance_score": scores[i], "index": i} for i in ranked]
        return {"object": "rerank", "results": results, "model": model, "id": f"infinity-{uuid.uuid4()}"}

    def _list(self) -> dict[str, Any]:
        stats = {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 32}
        cards = [
            {
                "id": name,
                "stats": stats,
                "object": "model",
                "owned_by": "infinity",
                "created": int(time.time()),
                "backend": "torch",
                "capabilities": [self._options.capability],
                "simulated": True,
            }
            for name in self.models
        ]
        return {"data": cards, "object": "list"}

    def _openapi(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {
            f"{self._options.prefix}{path}": {method: {}}
            for path, method in (("/models", "get"), ("/embeddings", "post"), ("/rerank", "post"))
        }
        return {"openapi": "3.1.0", "paths": {"/health": {"get": {}}, **paths}}
