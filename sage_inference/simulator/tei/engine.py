"""The simulated TEI: its routes, its key, and its short answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sage_inference.simulator import tokens
from sage_inference.simulator.clock import Clock
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.engine import Handler
from sage_inference.simulator.exchange import Headers, Reply, Request
from sage_inference.simulator.tei.errors import BodyError, TEIError
from sage_inference.simulator.tei.inputs import document_of, flag
from sage_inference.simulator.tei.metrics import CONTENT_TYPE, TEIMetrics
from sage_inference.simulator.tei.routes import LABELS, Models
from sage_inference.simulator.tei.work import TEILimits, Worker

_OPENAI_ROUTES = ("/v1/embeddings", "/embeddings")
_TEXT = b"text/plain; charset=utf-8"
Answering = Callable[[dict[str, Any]], Awaitable[tuple[Any, Headers]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TEIOptions:
    """``auto_truncate`` None means the default of the simulated version."""

    models: tuple[str, ...]
    model_type: str = "embedding"
    api_key: str | None = None
    dimension: int = 384
    version: str = "1.9.3"
    auto_truncate: bool | None = None
    serial: bool = False
    limits: TEILimits = field(default_factory=TEILimits)

    @property
    def old(self) -> bool:
        """True before 1.9: another status for bad inputs, and no truncation by default."""
        return tuple(int(part) for part in self.version.split(".")[:2]) < (1, 9)

    @property
    def truncates(self) -> bool:
        return not self.old if self.auto_truncate is None else self.auto_truncate


class SimulatedTEI:
    kind = "tei"
    server_header: bytes | None = None
    drains_open = False

    def __init__(self, options: TEIOptions, speed: float) -> None:
        self.models = options.models
        self.healthy = True
        self.draining = False
        self._options = options
        self._metrics = TEIMetrics(lambda: len(self._encoder.waiting))
        limits = options.limits
        self._encoder = Encoder(
            limits.max_batch_tokens, Clock(speed), self._metrics.batch, serial=options.serial
        )
        worker = Worker(limits, self._encoder, self._metrics, auto_truncate=options.truncates)
        self._open, self._closed = self._all_routes(
            Models(options.models[0], options.model_type, options.dimension, worker)
        )

    def headers_for(self, request: Request) -> Headers:
        return ()

    def give_up(self) -> None:
        """Do nothing: TEI finishes its requests, however long that takes."""

    def figures(self) -> Mapping[str, float]:
        return {
            "waiting": len(self._encoder.waiting),
            "batched": self._encoder.running,
            "texts": self._encoder.texts,
            "calls": self._encoder.calls,
            "prompt_tokens": self._encoder.tokens,
            "generated_tokens": 0,
        }

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        return [self._encoder.run()]

    async def handle(self, request: Request, reply: Reply) -> None:
        opened, closed = self._open.get(request.path, {}), self._closed.get(request.path, {})
        handler = opened.get(request.method)
        if handler is None and (handler := closed.get(request.method)) and not self._knows_key(request):
            await reply.whole(401, b"", None)
            return
        if handler is not None:
            await handler(request, reply)
        elif allowed := [*opened, *closed]:
            await reply.whole(405, b"", None, [(b"allow", ",".join(allowed).encode())])
        else:
            await reply.whole(404, b"", None)

    def _knows_key(self, request: Request) -> bool:
        key = self._options.api_key
        return key is None or request.header(b"authorization") == b"Bearer " + key.encode()

    def _all_routes(
        self, models: Models
    ) -> tuple[dict[str, dict[str, Handler]], dict[str, dict[str, Handler]]]:
        """The open routes, and the routes that need the key."""
        main = {"embedding": models.embed, "reranker": models.rerank, "classifier": models.predict}
        posts: dict[str, Answering] = {
            "/embed": models.embed,
            "/embed_all": models.embed_all,
            "/embed_sparse": models.embed_sparse,
            "/predict": models.predict,
            "/rerank": models.rerank,
            "/similarity": models.similarity,
            "/tokenize": _tokenize,
            "/decode": _decode,
            "/v1/embeddings": models.openai,
            "/embeddings": models.openai,
            "/": main[self._options.model_type],
            "/invocations": main[self._options.model_type],
        }
        closed = {path: {"POST": self._working(path, answering)} for path, answering in posts.items()}
        closed["/info"] = {"GET": self._info}
        opened: dict[str, dict[str, Handler]] = {
            path: {"GET": self._health} for path in ("/health", "/", "/ping")
        }
        opened["/metrics"] = {"GET": self._show_metrics}
        return opened, closed

    def _working(self, path: str, answering: Answering) -> Handler:
        old = self._options.old

        async def handler(request: Request, reply: Reply) -> None:
            try:
                if len(request.body) > self._options.limits.payload_limit:
                    raise BodyError(413, "Failed to buffer the request body: length limit exceeded")
                document, headers = await answering(document_of(request))
            except BodyError as error:
                await reply.whole(error.status, error.message.encode(), _TEXT)
            except TEIError as error:
                body = error.body(openai=path in _OPENAI_ROUTES, old=old)
                await reply.whole(error.status(old=old), body)
            else:
                await reply.whole(200, msgspec.json.encode(document), headers=headers)

        return handler

    async def _health(self, _: Request, reply: Reply) -> None:
        if self.healthy:
            await reply.whole(200, b"", None)
        else:
            error = TEIError("Unhealthy", "unhealthy")
            await reply.whole(503, error.body(openai=False, old=False))

    async def _show_metrics(self, _: Request, reply: Reply) -> None:
        await reply.whole(200, self._metrics.page.render(), CONTENT_TYPE)

    async def _info(self, _: Request, reply: Reply) -> None:
        options, limits = self._options, self._options.limits
        labels = LABELS[options.model_type]
        named = {str(i): label for i, label in enumerate(labels)}
        numbered = {label: i for i, label in enumerate(labels)}
        about = {"id2label": named, "label2id": numbered} if labels else {"pooling": "mean"}
        document = {
            "model_id": options.models[0],
            "model_sha": None,
            "model_dtype": "float16",
            "served_model_name": options.models[0],
            "model_type": {options.model_type: about},
            "max_concurrent_requests": limits.max_concurrent_requests,
            "max_input_length": limits.max_input_length,
            "max_batch_tokens": limits.max_batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": limits.max_client_batch_size,
            "auto_truncate": options.truncates,
            "tokenization_workers": 4,
            "version": f"{options.version}+simulated",
            "sha": None,
            "docker_label": "sage-simulator",
        }
        await reply.whole(200, msgspec.json.encode(document))


async def _tokenize(document: dict[str, Any]) -> tuple[Any, Headers]:
    given = document.get("inputs")
    texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not texts:
        raise TEIError("Empty", "`inputs` cannot be empty")
    special = flag(document, "add_special_tokens", True)
    return [_tokenized(str(text), special) for text in texts], ()


def _tokenized(text: str, special: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    place = 0
    for part in tokens.pieces(text):
        stop = place + len(part)
        found.append({"id": tokens.id_of(part), "text": part, "special": False, "start": place, "stop": stop})
        place = stop
    if not special:
        return found
    first, last = (
        {"id": tokens.id_of(part), "text": shown, "special": True, "start": None, "stop": None}
        for part, shown in ((tokens.CLS, "[CLS]"), (tokens.SEP, "[SEP]"))
    )
    return [first, *found, last]


async def _decode(document: dict[str, Any]) -> tuple[Any, Headers]:
    given = document.get("ids")
    lists = given if isinstance(given, list) and given and isinstance(given[0], list) else [given or []]
    return [tokens.text_of([one for one in ids if isinstance(one, int)]) for ids in lists], ()
