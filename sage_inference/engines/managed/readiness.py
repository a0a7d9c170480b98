"""Whether an engine that was started serves: its health, its models, and one token or one vector."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import httpx

from sage_inference.engines.detect import Detected, DetectError, detect
from sage_inference.engines.dialects import dialect_of
from sage_inference.engines.patience import Patience
from sage_inference.engines.probe import probe, probe_vector
from sage_inference.engines.query import QueryError, ask_bytes

ANSWER_S = 120.0  # for the first token: an engine may compile kernels for it
_TEXT = "hello"
_RERANKS = ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score")


# Texts of vLLM, of transformers and of TGI. Other refusals of a template are those of a model that has one.
_NO_TEMPLATE = re.compile(
    rb"default chat template is no longer allowed|must provide a chat template|chat_template is not set"
    rb"|(?:no|without a|does not (?:have|define|support)(?: a)?|lacks a|missing) chat[ _]template|template not found",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that serves. ``lacks_chat_template``: it refused a chat, because its model has no template."""

    detected: Detected
    lacks_chat_template: bool = False


class NotReadyError(Exception):
    """The engine does not serve yet. The message has the reason."""


async def serving(
    client: httpx.AsyncClient,
    url: str,
    api_key: str | None,
    names: Collection[str],
    *,
    question_s: float,
    patience: Patience,
    warms: bool,
) -> Served:
    """The engine's facts, once it serves one of ``names``. With ``warms``, it has answered a token or a vector, too.

    Raises ``NotReadyError``.
    """
    try:
        found = await detect(client, url, api_key=api_key, question_s=question_s, patience=patience)
    except DetectError as error:
        raise NotReadyError(str(error)) from None
    served = [card.id for card in found.models]
    ours = next((name for name in names if name in served), None)
    if ours is None:
        raise NotReadyError(f"it serves {', '.join(served) or 'no model'}, and not {', '.join(names)}")
    health = await probe(client, url, dialect_of(found.engine), api_key, question_s, patience)
    if not health.ok:
        raise NotReadyError(health.error or f"its health answers {health.status}")
    if not warms:
        return Served(found)
    return Served(
        found, await _warm(client, url + ("" if found.bare else "/v1"), url, api_key, ours, found, patience)
    )


async def _warm(
    client: httpx.AsyncClient,
    api_url: str,
    url: str,
    api_key: str | None,
    model: str,
    found: Detected,
    patience: Patience,
) -> bool:
    """Have one request of the engine's own kind answered. Returns whether it lacks a chat template.

    Raises ``NotReadyError``.
    """
    routes = found.routes

    async def answers(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        base = api_url.removesuffix("/v1") if path.startswith("/v1") and not found.bare else url
        try:
            status, answer = await patience.within(ANSWER_S, ask_bytes(client, base + path, api_key, body))
        except (QueryError, TimeoutError) as error:
            raise NotReadyError(f"{path} was not answered: {error or 'in time'}") from None
        if status >= 500:
            raise NotReadyError(f"{path} answers {status}")
        return status, answer

    if "/v1/chat/completions" in routes or "/v1/completions" in routes:
        body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": _TEXT}]}
        # A model without a chat template refuses chats, and may serve completions.
        chats = "/v1/chat/completions" in routes
        status, answer = await answers("/v1/chat/completions", body) if chats else (400, b"")
        if status >= 400 and "/v1/completions" in routes:
            await answers("/v1/completions", {"model": model, "max_tokens": 1, "prompt": _TEXT})
        return status >= 400 and _NO_TEMPLATE.search(answer) is not None
    if "/v1/embeddings" in routes:
        try:
            vector = await probe_vector(client, api_url, model, _TEXT, api_key, ANSWER_S, patience)
        except TimeoutError:
            raise NotReadyError("no vector was answered") from None
        if vector is None:
            raise NotReadyError("an embedding was answered without a vector")
    elif path := next((path for path in _RERANKS if path in routes), None):
        ranks = "rerank" in path
        texts = (
            {"query": _TEXT, "documents": [_TEXT], "texts": [_TEXT]}
            if ranks
            else {"text_1": _TEXT, "text_2": _TEXT}
        )
        await answers(path, {"model": model, **texts})
    return False
