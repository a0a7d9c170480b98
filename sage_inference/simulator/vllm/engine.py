"""The simulated vLLM: its routes, its key, and its short answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from sage_inference.simulator import tokens
from sage_inference.simulator.clock import Clock
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.engine import Handler
from sage_inference.simulator.exchange import Headers, Reply, Request
from sage_inference.simulator.llm import LLM, Limits
from sage_inference.simulator.timing import pooling_step_ms
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import Chat
from sage_inference.simulator.vllm.completions import Completions
from sage_inference.simulator.vllm.core import VERSION, Choice, Core, random_id
from sage_inference.simulator.vllm.errors import ApiError
from sage_inference.simulator.vllm.front_end import FrontEnd
from sage_inference.simulator.vllm.messages import Messages
from sage_inference.simulator.vllm.metrics import CONTENT_TYPE, VLLMMetrics
from sage_inference.simulator.vllm.pooling import Pooling
from sage_inference.simulator.vllm.response_store import ResponseStore
from sage_inference.simulator.vllm.responses import Responses
from sage_inference.simulator.vllm.schema import read
from sage_inference.simulator.vllm.sleep import Sleep
from sage_inference.simulator.vllm.transfer import KVTransfer, TransferConfig

_OWNER = "sage-simulator"
_RESPONSE = re.compile(r"^/v1/responses/[^/]+(/cancel)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions:
    """``runner``: ``generate`` or ``pooling``. ``mixed`` serves both kinds, which no real vLLM does.

    ``transfer``: the configuration of KV transfers between engines, or None without them. ``host``: their address.
    ``dev_mode``: whether the engine has the routes for sleeping. ``stores``: whether it keeps responses.
    """

    models: tuple[str, ...]
    runner: str = "generate"
    api_key: str | None = None
    max_model_len: int = 32768
    limits: Limits = Limits()
    dimension: int = 384
    text_only: bool = False
    transfer: TransferConfig | None = None
    host: str = "127.0.0.1"
    dev_mode: bool = False
    stores: bool = False


class SimulatedVLLM:
    kind = "vllm"
    server_header: bytes | None = b"uvicorn"
    drains_open = True

    def __init__(self, options: VLLMOptions, speed: float) -> None:
        self.models = options.models
        self.healthy = True
        self.draining = False
        self._options = options
        self._created = int(time.time())
        self._load = 0
        limits = options.limits
        metrics = VLLMMetrics(options.models[0], limits.block_size, limits.kv_cache_tokens)
        self._metrics = metrics
        self._llm = LLM(limits, Clock(speed), metrics.observers())
        self._encoder = Encoder(limits.max_num_batched_tokens, Clock(speed), step_ms=pooling_step_ms)
        self._front_end = FrontEnd(self._encoder, Clock(speed))
        self._sleep = Sleep(self._llm, self._encoder, self.give_up)
        metrics.watch(self._llm, self._encoder, self._sleep)
        self._transfer = (
            KVTransfer(options.transfer, options.host, Clock(speed), limits.block_size)
            if options.transfer
            else None
        )
        self._core = Core(
            self._llm,
            options.models,
            options.max_model_len,
            speed == 0,
            self._finished,
            self._aborted,
            self._transfer,
        )
        self._routes = self._all_routes()

    def headers_for(self, request: Request) -> Headers:
        given = request.header(b"x-request-id")
        return [(b"vary", b"Origin"), (b"x-request-id", given or random_id(32).encode())]

    def figures(self) -> Mapping[str, float]:
        return {
            "waiting": len(self._llm.waiting) + len(self._encoder.waiting),
            "batched": len(self._llm.running) + self._encoder.running,
            "aborted": self._metrics.finished["abort"],
            "texts": self._encoder.texts,
            "calls": self._encoder.calls,
            "prompt_tokens": self._llm.prompt_tokens + self._encoder.tokens,
            "generated_tokens": self._llm.generated_tokens,
            "prompts_held": self._transfer.held if self._transfer else 0,
            "prompts_fetched": self._transfer.fetched if self._transfer else 0,
        }

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        loops = [self._llm.run(), self._encoder.run()]
        return [*loops, self._transfer.serve()] if self._transfer else loops

    def give_up(self) -> None:
        self._core.give_up()

    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path.startswith("/v1/") and not request.shows(self._options.api_key):
            await reply.whole(401, b'{"error":"Unauthorized"}')
            return
        methods = self._routes.get(request.path) or self._routes.get(_template_of(request.path))
        if methods is None:
            await reply.whole(404, b'{"detail":"Not Found"}')
            return
        handler = methods.get(request.method)
        if handler is None:
            allow = ", ".join(methods).encode()
            await reply.whole(405, b'{"detail":"Method Not Allowed"}', headers=[(b"allow", allow)])
            return
        await self._handle(handler, request, reply)

    async def _handle(self, handler: Handler, request: Request, reply: Reply) -> None:
        work = request.method == "POST"
        self._load += work
        try:
            if work and self.draining:
                words = "cannot schedule new futures after shutdown"
                raise ApiError(words, status=500, kind="InternalServerError")
            await handler(request, reply)
        except ApiError as error:
            await reply.whole(error.status, error.body())
        finally:
            self._load -= work

    def _finished(self, choice: Choice, seconds: float) -> None:
        self._metrics.finished[choice.answer.finish_reason] += 1
        self._metrics.e2e.observe(seconds)
        self._metrics.prompts.observe(choice.prompt.tokens)
        self._metrics.outputs.observe(choice.produced)

    def _aborted(self) -> None:
        self._metrics.finished["abort"] += 1

    def _all_routes(self) -> dict[str, dict[str, Handler]]:
        routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/load": {"GET": _answering(lambda: {"server_load": self._load})},
            "/version": {"GET": _answering(lambda: {"version": f"{VERSION}+simulated"})},
            "/metrics": {"GET": self._show_metrics},
            "/openapi.json": {"GET": _answering(self._openapi)},
            "/v1/models": {"GET": _answering(self._model_list)},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }
        if self._options.runner != "pooling":
            routes.update(self._generate_routes())
        if self._options.runner != "generate":
            routes.update(self._pooling_routes())
        if self._options.dev_mode:
            routes.update(self._sleep.routes())
        return routes

    def _generate_routes(self) -> dict[str, dict[str, Handler]]:
        self._chat = chat = Chat(self._core, text_only=self._options.text_only)
        messages = Messages(self._core, chat)
        responses = Responses(self._core, chat, ResponseStore(self._options.stores))
        posts: dict[str, Handler] = {
            "/v1/chat/completions": chat.chat,
            "/v1/chat/completions/batch": chat.batch,
            "/v1/completions": Completions(self._core).complete,
            "/v1/responses": responses.respond,
            "/v1/responses/{response_id}/cancel": responses.cancel,
            "/v1/messages": messages.create,
            "/v1/messages/count_tokens": messages.count_tokens,
        }
        routes = {path: {"POST": handler} for path, handler in posts.items()}
        return {**routes, "/v1/responses/{response_id}": {"GET": responses.retrieve}}

    def _pooling_routes(self) -> dict[str, dict[str, Handler]]:
        self._chat = Chat(self._core, text_only=self._options.text_only)
        pooling = Pooling(self._core, self._front_end, self._options.dimension)
        posts: dict[str, Handler] = {"/v1/embeddings": pooling.embeddings, "/pooling": pooling.pooling}
        posts |= dict.fromkeys(("/score", "/v1/score"), pooling.score)
        posts |= dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), pooling.rerank)
        return {path: {"POST": handler} for path, handler in posts.items()}

    async def _health(self, _: Request, reply: Reply) -> None:
        await reply.whole(200 if self.healthy else 503, b"", None)

    async def _show_metrics(self, _: Request, reply: Reply) -> None:
        await reply.whole(200, self._metrics.page.render(), CONTENT_TYPE)

    def _openapi(self) -> dict[str, Any]:
        paths = {
            path: {
                method.lower(): {"responses": {"200": {"description": "Successful Response"}}}
                for method in all_
            }
            for path, all_ in self._routes.items()
            if path != "/openapi.json"
        }
        return {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths}

    def _model_list(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card(name) for name in self.models]}

    def _card(self, name: str) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{random_id()}",
            "object": "model_permission",
            "created": self._created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": _OWNER,
            "root": self.models[0],
            "parent": None,
            "max_model_len": self._options.max_model_len,
            "permission": [permission],
        }

    async def _tokenize(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        messages = fields.get("messages")
        if messages is None:
            fields.required("prompt")
        text, special = fields.text("prompt") or "", fields.get("add_special_tokens") is not False
        fields.check()
        self._core.check_model(fields.text("model"), aliases=self._options.runner != "pooling")
        if isinstance(messages, list):
            parts = self._chat.prompt(messages).parts
        elif self._options.runner == "pooling" and special:
            parts = [tokens.CLS, *tokens.pieces(text), tokens.SEP]
        else:
            parts = tokens.pieces(text)
        document = {
            "count": len(parts),
            "max_model_len": self._options.max_model_len,
            "tokens": tokens.ids(parts),
            "token_strs": parts if fields.flag("return_token_strs") else None,
        }
        await reply.whole(200, frames.encode(document))

    async def _detokenize(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        given = fields.required_list("tokens")
        fields.check()
        self._core.check_model(fields.text("model"), aliases=self._options.runner != "pooling")
        ids = [one for one in given if isinstance(one, int)]
        await reply.whole(200, frames.encode({"prompt": tokens.text_of(ids)}))


def _template_of(path: str) -> str:
    """The route of a response's path. Any other path is its own route."""
    return _RESPONSE.sub(r"/v1/responses/{response_id}\1", path)


def _answering(document: Callable[[], Any]) -> Handler:
    async def handler(_: Request, reply: Reply) -> None:
        await reply.whole(200, frames.encode(document()))

    return handler
