"""Detect what a server is: its dialect, its models, its routes and its kind of work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from sage_inference.engines.dialects import dialect_of
from sage_inference.engines.dialects.tei import ROUTES_BY_TYPE, SPARSE_ROUTES, limits_of
from sage_inference.engines.patience import REAL_TIME, Patience
from sage_inference.engines.query import QueryError, QueryNotSentError, ask
from sage_inference.types import EngineKind, ExecutionInstanceType

SIMULATOR = "sage-simulator"
GATEWAY = "sage-inference"  # the name in a gateway's document at /
# infinity does not report these limits, only refuses more texts. It makes batches across calls, and pads them.
_INFINITY_LIMITS = {"max_client_batch_size": 2048, "batches_calls": 1, "pads": 1}
_TIMEOUT_S = 5.0
_ROUTES = "/openapi.json"
BARE_MODELS = "/models"
# Routes that are tried on an engine that does not report its routes, besides those that all of its kind have.
TRIED = frozenset({"/classify", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"})
_WRITES = frozenset({"/v1/chat/completions", "/v1/completions"})
_ENCODES = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/classify", "/pooling"})
_RERANKS = ("/v1/rerank", "/rerank", "/v2/rerank")  # three names of one route
_EMBEDS = frozenset({"embed", "embeddings", "embedding"})
_RANKS = frozenset({"rerank", "classify"})
_NOT_VLLM = frozenset({"/get_model_info", "/health_generate", "/generate_stream"})  # SGLang's, TGI's


class DetectError(Exception):
    """The server cannot be asked, or is no engine. The message has the reason.

    ``refused``: nothing listens there. ``definite``: it answered, but not as an engine that can be used. ``asked`` is
    False if this machine lacked a resource for a question, which shows nothing about the server.
    """

    def __init__(
        self, message: str, *, refused: bool = False, definite: bool = False, asked: bool = True
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.definite = definite
        self.asked = asked


@dataclass(frozen=True)
class ModelInfo:
    """A model as the engine reports it. ``raw`` is its complete card."""

    id: str
    created: int = 0
    owned_by: str = ""
    max_model_len: int | None = None
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Detected:
    """The facts about a server. ``routes`` are the gateway's routes that it serves.

    ``guessed``: it does not report its routes, so each is tried. ``bare``: it serves OpenAI's routes without ``/v1``
    before them. ``paths``: routes that it has under another path. ``tagged``: it is an Ollama, where ``llama3`` is
    short for ``llama3:latest``.
    """

    engine: EngineKind
    kind: ExecutionInstanceType
    models: tuple[ModelInfo, ...]
    routes: frozenset[str]
    version: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    simulated: bool = False
    guessed: bool = False
    bare: bool = False
    tagged: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answers:
    """The server's answer to each question; None if it has no such route, or did not answer.

    ``silent_on_routes``: it did not report its routes.
    """

    models: Any
    info: Any
    version: Any
    openapi: Any
    silent_on_routes: bool
    bare: bool = False
    ollama: bool = False


async def detect(
    client: httpx.AsyncClient,
    base_url: str,
    *,
    api_key: str | None = None,
    engine: str = "auto",
    kind: str = "auto",
    model: str | None = None,
    question_s: float = _TIMEOUT_S,
    patience: Patience = REAL_TIME,
) -> Detected:
    """Detect the server at ``base_url``, except for facts that the caller knows (``engine``, ``kind``).

    ``model`` is assumed if the engine names none. Each question may take ``question_s``, and all together five
    seconds. Raises ``DetectError`` only.
    """
    try:
        answers = await patience.within(
            _TIMEOUT_S, _interview(client, base_url, api_key, question_s, patience)
        )
    except QueryNotSentError as error:
        raise DetectError(str(error), asked=False) from None
    except QueryError as error:
        raise DetectError(str(error), refused=error.refused) from None
    except TimeoutError:
        raise DetectError(f"did not answer within {_TIMEOUT_S:g} s") from None
    which = EngineKind(engine) if engine != "auto" else _engine_of(answers)
    if which is EngineKind.VLLM and kind == "auto" and answers.silent_on_routes:
        # vLLM makes this document when it is first asked, which takes seconds under load. A guess would be wrong.
        raise DetectError(f"did not answer {_ROUTES} in time, which lists the routes that it serves")
    found = _tei(answers, model) if which is EngineKind.TEI else _openai_like(which, answers, model)
    return found if kind == "auto" else _with_kind(found, ExecutionInstanceType(kind))


async def _interview(
    client: httpx.AsyncClient, base_url: str, api_key: str | None, question_s: float, patience: Patience
) -> _Answers:
    async def document(path: str) -> tuple[int, Any]:
        try:
            return await patience.within(question_s, ask(client, base_url + path, api_key))
        except TimeoutError:
            raise QueryError("does not answer in time") from None

    paths = ("/v1/models", "/info", "/version", _ROUTES)
    replies = await asyncio.gather(*map(document, paths), return_exceptions=True)
    for reply in replies:
        if isinstance(
            reply, QueryNotSentError
        ):  # with some answers missing it would look like another engine
            raise reply
    first = replies[0]
    if isinstance(first, BaseException):
        raise first
    if first[0] in (401, 403):
        raise DetectError(f"answers {first[0]}: it wants another api_key", definite=True)
    models, info, version, openapi = (
        None if isinstance(r, BaseException) or r[0] != 200 else r[1] for r in replies
    )
    bare = ollama = False
    if models is None and not isinstance(info, dict) and first[0] == 404:
        status, listing = await document(BARE_MODELS)
        if status == 200 and _cards(listing):  # infinity, unless started with --url-prefix
            models, bare = listing, True
    if models is None and not isinstance(info, dict):
        raise DetectError(
            f"is no engine that is known: /v1/models answers {first[0]}, and there is no TEI's /info",
            definite=first[0] < 500 and first[0] != 429,
        )
    cards = _cards(models)
    if cards and info is None and openapi is None and all(":" in card.id for card in cards):
        ollama = all(card.owned_by == "library" for card in cards) or await _has_version(document)
    return _Answers(models, info, version, openapi, isinstance(replies[3], BaseException), bare, ollama)


async def _has_version(document: Callable[[str], Awaitable[tuple[int, Any]]]) -> bool:
    """Whether the server answers a path that only Ollama has."""
    try:
        status, version = await document("/api/version")
    except QueryNotSentError:
        raise
    except QueryError:
        return False
    return status == 200 and isinstance(version, dict) and isinstance(version.get("version"), str)


async def gateway_document(
    client: httpx.AsyncClient, base_url: str, api_key: str | None = None
) -> dict[str, Any] | None:
    """The document at / of a gateway of this package. None if the server is another one, or does not answer."""
    try:
        _, document = await ask(client, f"{base_url}/", api_key)
    except QueryError:  # engines need not have the route
        return None
    return document if isinstance(document, dict) and document.get("name") == GATEWAY else None


async def listed(
    client: httpx.AsyncClient,
    api_url: str,
    api_key: str | None,
    timeout_s: float,
    patience: Patience = REAL_TIME,
) -> tuple[str, ...]:
    """The models that the server lists now; empty if it does not answer."""
    try:
        status, models = await patience.within(timeout_s, ask(client, f"{api_url}/models", api_key))
    except (QueryError, TimeoutError):
        return ()
    return tuple(card.id for card in _cards(models)) if status == 200 else ()


def _engine_of(answers: _Answers) -> EngineKind:
    info = answers.info
    if isinstance(info, dict) and isinstance(info.get("model_type"), dict) and "model_id" in info:
        return EngineKind.TEI
    owners = {card.owned_by for card in _cards(answers.models)}
    if owners & {"vllm", SIMULATOR}:
        return EngineKind.VLLM
    # A proxy of the API may be named as the models' owner. SGLang and TGI have /ping too, but no /version.
    served = _served(answers.openapi)
    if {"/ping", "/version"} <= served and not served & _NOT_VLLM and "sglang" not in owners:
        return EngineKind.VLLM
    return EngineKind.OPENAI


def _cards(models: Any) -> tuple[ModelInfo, ...]:
    data = models.get("data") if isinstance(models, dict) else None
    listed = data if isinstance(data, list) else ()
    cards = [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]
    return tuple(
        ModelInfo(
            card["id"],
            card["created"] if isinstance(card.get("created"), int) else 0,
            str(card.get("owned_by", "")),
            _length(card),
            card,
        )
        for card in cards
    )


def _length(card: dict[str, Any]) -> int | None:
    meta = card.get("meta")  # llama.cpp's
    length = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else None


def embeds_by_its_card(card: ModelInfo) -> bool:
    """Whether the engine reports that the model embeds."""
    words = {str(word) for word in _words(card.raw.get("capabilities"))} | {str(card.raw.get("type"))}
    return bool(words & _EMBEDS)


def _served(openapi: Any) -> frozenset[str]:
    paths = openapi.get("paths") if isinstance(openapi, dict) else None
    return (
        frozenset(path for path in paths if isinstance(path, str)) if isinstance(paths, dict) else frozenset()
    )


def _tei(answers: _Answers, model: str | None) -> Detected:
    info = answers.info if isinstance(answers.info, dict) else {}
    kinds = info.get("model_type")
    kind = (
        next((k for k in kinds if k in ROUTES_BY_TYPE), "embedding")
        if isinstance(kinds, dict)
        else "embedding"
    )
    routes = ROUTES_BY_TYPE[kind]
    if isinstance(kinds, dict) and kinds.get(kind) == {"pooling": "splade"}:
        routes = SPARSE_ROUTES
    name = info.get("served_model_name") or info.get("model_id") or model
    simulated = info.get("docker_label") == SIMULATOR
    length = info.get("max_input_length")
    raw = {"id": name, "object": "model", "created": 0, "owned_by": SIMULATOR if simulated else "tei"}
    card = ModelInfo(str(name), 0, str(raw["owned_by"]), length if isinstance(length, int) else None, raw)
    return Detected(
        EngineKind.TEI,
        ExecutionInstanceType.EMBEDDING,
        (card,) if name else (),
        routes,
        _text(info.get("version")),
        limits_of(info),
        simulated,
    )


def _openai_like(which: EngineKind, answers: _Answers, model: str | None) -> Detected:
    cards = _cards(answers.models) or ((_assumed(model),) if model else ())
    dialect = dialect_of(which)
    known = dialect.llm_routes | dialect.embedding_routes | TRIED
    if which is EngineKind.OPENAI and _may_rank(cards, answers.openapi):
        known |= set(_RERANKS)
    named = _served(answers.openapi)
    if answers.bare:
        named = frozenset(f"/v1{path}" if f"/v1{path}" in known else path for path in named)
    served = _within_capabilities(cards, named & known)
    paths = _other_names(served) if which is EngineKind.OPENAI else {}
    kind = _kind_of(cards, served)
    routes = served.union(paths) or (
        (dialect.llm_routes if kind.serves_llm else frozenset())
        | (dialect.embedding_routes if kind.serves_embeddings else frozenset())
        | (TRIED if kind is ExecutionInstanceType.LLM_EMBEDDING else frozenset())
    )
    version = answers.version.get("version") if isinstance(answers.version, dict) else None
    return Detected(
        which,
        kind,
        cards,
        routes,
        _text(version),
        _INFINITY_LIMITS if any(card.owned_by == "infinity" for card in cards) else {},
        simulated=any(c.owned_by == SIMULATOR or c.raw.get("simulated") is True for c in cards),
        guessed=not served,
        bare=answers.bare,
        tagged=answers.ollama,
        paths=paths,
    )


def _capabilities(cards: tuple[ModelInfo, ...]) -> set[str]:
    """The kinds of work that the models report; empty if the engine reports none. infinity does."""
    return {str(word) for card in cards for word in _words(card.raw.get("capabilities"))}


def _may_rank(cards: tuple[ModelInfo, ...], openapi: Any) -> bool:
    """Whether the model itself reranks. Some servers have the routes whatever their model does."""
    able = _capabilities(cards)
    return "rerank" in able if able else not _served(openapi) & _WRITES


def _within_capabilities(cards: tuple[ModelInfo, ...], served: frozenset[str]) -> frozenset[str]:
    """Without the route of embeddings where the models report that they do other work: infinity always has it."""
    able = _capabilities(cards)
    if not able or any("embed" in word for word in able):
        return served
    return served - {"/v1/embeddings"} or served


def _other_names(served: frozenset[str]) -> dict[str, str]:
    """The missing routes that another route of the engine can serve: infinity has one of the three to rerank."""
    own = next((route for route in _RERANKS if route in served), None)
    return {route: own for route in _RERANKS if route not in served} if own else {}


def _kind_of(cards: tuple[ModelInfo, ...], served: frozenset[str]) -> ExecutionInstanceType:
    """The kind by the models' cards, otherwise by the routes. An engine with neither may serve both kinds of work."""
    able = _capabilities(cards)
    if able:  # infinity
        llm, embeds = bool(able & {"chat", "completion", "generate"}), bool(able & (_EMBEDS | _RANKS))
    else:
        llm, embeds = bool(served & _WRITES), "/v1/embeddings" in served
        embeds = embeds or (not llm and bool(served & _ENCODES))  # a reranker or a classifier
    if llm != embeds:
        return ExecutionInstanceType.GENERAL if llm else ExecutionInstanceType.EMBEDDING
    return ExecutionInstanceType.LLM_EMBEDDING


def _words(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _with_kind(found: Detected, kind: ExecutionInstanceType) -> Detected:
    """Apply the kind that the user configured. Routes that it needs and the engine does not report are assumed."""
    dialect = dialect_of(found.engine)
    routes = found.routes
    if kind.serves_llm and not routes & dialect.llm_routes:
        routes |= dialect.llm_routes
    if kind.serves_embeddings and not routes & dialect.embedding_routes:
        routes |= dialect.embedding_routes
    if not kind.serves_llm:
        routes -= {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
    if not kind.serves_embeddings:
        routes -= {"/v1/embeddings", "/embed", "/embed_all", "/embed_sparse"}
    return replace(found, kind=kind, routes=routes)


def _assumed(model: str) -> ModelInfo:
    raw = {"id": model, "object": "model", "created": 0, "owned_by": "configured"}
    return ModelInfo(model, owned_by="configured", raw=raw)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
