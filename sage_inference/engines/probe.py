"""Probe an engine: its health, the vector of a text, and the size of its cache."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import httpx

from sage_inference.engines.dialects import Dialect
from sage_inference.engines.patience import REAL_TIME, Patience
from sage_inference.engines.query import QueryError, QueryNotSentError, ask, ask_bytes

_SOON = 1 / 8  # of the time-out: after this, the second question is asked
_CACHE_LINE = re.compile(rb"^vllm:cache_config_info\{[^}]*\}", re.M)
_CACHE_SIZES = re.compile(rb'(?<=[{,])(kv_cache_size_tokens|num_gpu_blocks|block_size)="(\d+)"')


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``error`` is the reason for a missing status. ``refused``: nothing listens on the port.

    ``asked`` is False if this machine lacked a resource for the question.
    """

    ok: bool
    status: int | None
    error: str | None = None
    refused: bool = False
    asked: bool = True


async def probe(
    client: httpx.AsyncClient,
    base_url: str,
    dialect: Dialect,
    api_key: str | None,
    timeout_s: float,
    patience: Patience = REAL_TIME,
) -> ProbeResult:
    """GET the engine's health path, and once more on another connection if no good answer comes soon.

    Healthy engines have single slow answers, broken connections and 500s. The second question costs next to nothing,
    and delays the report on a hanging engine by little.
    """

    async def ask_once() -> ProbeResult:
        return await _probe_once(client, base_url, dialect, api_key, timeout_s, patience)

    first = asyncio.ensure_future(ask_once())
    again = asyncio.ensure_future(asyncio.sleep(timeout_s * _SOON))
    running: set[asyncio.Future[Any]] = {first, again}
    result: ProbeResult | None = None
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done - {again}:
                found: ProbeResult = each.result()
                if found.ok or found.refused or not found.asked:
                    return found
                result = result or found
            if again in done:
                running.add(asyncio.ensure_future(ask_once()))
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert result is not None
    return result


async def _probe_once(
    client: httpx.AsyncClient,
    base_url: str,
    dialect: Dialect,
    api_key: str | None,
    timeout_s: float,
    patience: Patience,
) -> ProbeResult:
    """A 404 counts as healthy, because some servers have no such route."""
    try:
        status, _ = await patience.within(timeout_s, ask(client, base_url + dialect.health_path, api_key))
    except QueryNotSentError as error:
        return ProbeResult(False, None, str(error), asked=False)
    except QueryError as error:
        return ProbeResult(False, None, str(error), error.refused)
    except TimeoutError:
        return ProbeResult(False, None, f"did not answer {dialect.health_path} within {timeout_s:g} s")
    return ProbeResult(status < 300 or status == 404, status)


async def probe_vector(
    client: httpx.AsyncClient,
    api_url: str,
    model: str,
    text: str,
    api_key: str | None,
    timeout_s: float,
    patience: Patience = REAL_TIME,
) -> list[float] | None:
    """The vector that the engine returns for a text; None if it returns none.

    Raises ``TimeoutError`` if that is not known: the engine was not reached, was too busy, or failed.
    """
    body = {"model": model, "input": text, "encoding_format": "float"}
    try:
        question = ask(client, f"{api_url}/embeddings", api_key, body)
        status, document = await patience.within(timeout_s, question)
        if status == 429 or (status >= 500 and status != 501):
            raise TimeoutError
        vector = document["data"][0]["embedding"] if status == 200 else None
    except QueryError:
        raise TimeoutError from None
    except (LookupError, TypeError):
        return None
    if not isinstance(vector, list) or not all(isinstance(x, int | float) for x in vector):
        return None
    try:
        return [float(x) for x in vector]
    except OverflowError:  # an integer of hundreds of digits
        return None


async def kv_cache_tokens(
    client: httpx.AsyncClient,
    base_url: str,
    api_key: str | None,
    timeout_s: float,
    patience: Patience = REAL_TIME,
) -> int | None:
    """The size of the engine's prefix cache in tokens, by vLLM's metrics; None if they do not have it."""
    try:
        question = ask_bytes(client, f"{base_url}/metrics", api_key)
        status, page = await patience.within(timeout_s, question)
    except (QueryError, TimeoutError):
        return None
    line = _CACHE_LINE.search(page) if status == 200 else None
    sizes = {name: int(value) for name, value in _CACHE_SIZES.findall(line[0])} if line else {}
    return (
        sizes.get(b"kv_cache_size_tokens")
        or sizes.get(b"num_gpu_blocks", 0) * sizes.get(b"block_size", 0)
        or None
    )
