"""A simulated llama-server (llama.cpp): it listens while it loads, and answers 503 until then.

Lists of models, health and properties have llama.cpp's shape. Answers of the OpenAI routes have vLLM's.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from typing import Any

from sage_inference.simulator.exchange import Headers, Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.engine import SimulatedVLLM, VLLMOptions

_LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
_NO_FILE = b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'
_NO_KEY = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
_HEALTH = frozenset({"/health", "/v1/health"})
_LISTS = frozenset({"/models", "/v1/models"})
_TEXT = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_VECTORS = frozenset({"/v1/embeddings"})
_RANKS = frozenset({"/v1/rerank", "/rerank"})


class SimulatedLlamaServer:
    """``kind_of_work``: ``text``, ``embeddings`` or ``reranking``, as its options choose."""

    kind = "llama-server"
    server_header: bytes | None = b"llama.cpp"
    drains_open = False

    def __init__(self, options: VLLMOptions, kind_of_work: str, speed: float) -> None:
        self.models = options.models
        self.healthy = True
        self.draining = False
        self.loading = True
        self._options = options
        self._inner = SimulatedVLLM(options, speed)
        self._routes = {"text": _TEXT, "embeddings": _VECTORS, "reranking": _RANKS}[kind_of_work]

    def headers_for(self, request: Request) -> Headers:
        return ()

    def figures(self) -> Mapping[str, float]:
        return self._inner.figures()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        return self._inner.loops()

    def give_up(self) -> None:
        """End at once: llama-server drops what is under way."""
        self._inner.give_up()

    async def handle(self, request: Request, reply: Reply) -> None:
        path = request.path
        if self.loading:
            await reply.whole(503, _LOADING)
        elif path in _HEALTH:
            await reply.whole(200 if self.healthy else 503, b'{"status":"ok"}')
        elif path in _LISTS:
            await reply.whole(200, frames.encode(self._list()))
        elif not request.shows(self._options.api_key):
            await reply.whole(401, _NO_KEY)
        elif path == "/props":
            await reply.whole(200, frames.encode(self._properties()))
        elif path in self._routes:
            await self._inner.handle(request, reply)
        else:
            await reply.whole(404, _NO_FILE)

    def _list(self) -> dict[str, Any]:
        able = "completion" if self._routes is _TEXT else "embedding"
        length = self._options.max_model_len
        models = [
            {"name": name, "model": name, "type": "model", "capabilities": [able]} for name in self.models
        ]
        cards = [
            {
                "id": name,
                "aliases": [name],
                "object": "model",
                "created": int(time.time()),
                "owned_by": "llamacpp",
                "simulated": True,
                "meta": {"n_ctx": length, "n_ctx_train": length},
            }
            for name in self.models
        ]
        return {"models": models, "object": "list", "data": cards}

    def _properties(self) -> dict[str, Any]:
        settings = {"n_ctx": self._options.max_model_len}
        return {
            "default_generation_settings": settings,
            "total_slots": self._options.limits.max_num_seqs,
            "model_alias": self.models[0],
            "build_info": "b0-simulated",
        }
