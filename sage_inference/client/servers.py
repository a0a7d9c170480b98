"""Asks a server for its models and kinds of work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from sage_inference.client.errors import InferenceConnectionError
from sage_inference.client.http import options
from sage_inference.engines.detect import Detected, DetectError, detect, gateway_document

LOOK_S = 1.0


class LookError(Exception):
    """The server is not reached, or is not an inference server. The message has the reason."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its models by kind of work. ``dedicated``: the server reported these kinds. Otherwise they are assumed."""

    url: str
    llm: tuple[str, ...] | None
    embedding: tuple[str, ...] | None
    dedicated: bool

    def models(self, kind: str) -> tuple[str, ...] | None:
        """The models for ``llm`` or ``embedding`` work. None if the server does no such work."""
        return self.llm if kind == "llm" else self.embedding


async def look(url: str, api_key: str | None = None, seconds: float = LOOK_S) -> Server:
    """Ask the server at ``url``. ``seconds`` is the time limit. Raises ``LookError``."""
    try:
        chosen = options(url)
    except InferenceConnectionError as error:
        raise LookError(error.message) from None
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(timeout=seconds, **chosen) as client:
            gateway, detected = await asyncio.gather(
                gateway_document(client, url, api_key), _detected(client, url, api_key)
            )
    except TimeoutError:
        raise LookError(f"no answer within {seconds:g} s") from None
    if gateway is not None:
        return _gateway(url, gateway)
    if isinstance(detected, str):
        raise LookError(detected)
    return _engine(url, detected)


async def serves(url: str, api_key: str | None, kind: str) -> bool:
    """Whether the server answers now and does ``llm`` or ``embedding`` work."""
    try:
        return (await look(url, api_key, 2 * LOOK_S)).models(kind) is not None
    except LookError:
        return False


async def look_at_all(urls: Iterable[str], api_key: str | None) -> dict[str, Server | LookError]:
    """Ask all servers in parallel, so that this takes only as long as one question."""
    wanted = list(dict.fromkeys(urls))
    found = await asyncio.gather(*(look(url, api_key) for url in wanted), return_exceptions=True)
    seen: dict[str, Server | LookError] = {}
    for url, one in zip(wanted, found, strict=True):
        if isinstance(one, BaseException) and not isinstance(one, LookError):
            raise one
        seen[url] = one
    return seen


async def _detected(client: httpx.AsyncClient, url: str, api_key: str | None) -> Detected | str:
    try:
        return await detect(client, url, api_key=api_key)
    except DetectError as error:
        return str(error)


def _gateway(url: str, document: dict[str, Any]) -> Server:
    serves = document.get("serves")
    kinds = serves if isinstance(serves, dict) else {}
    llm, embedding = (tuple(map(str, kinds.get(kind) or ())) or None for kind in ("llm", "embedding"))
    if llm is None and embedding is None:
        raise LookError("is a gateway without a healthy engine")
    return Server(url, llm, embedding, True)


def _engine(url: str, found: Detected) -> Server:
    models = tuple(model.id for model in found.models)
    if not models:
        raise LookError("answers, but names no served model")
    llm = models if found.kind.serves_llm else None
    embedding = models if found.kind.serves_embeddings else None
    return Server(url, llm, embedding, llm is None or embedding is None)
