"""Asking an engine whether it is well."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from sage_inference.engines.ask import AskError, ask
from sage_inference.engines.dialects import Dialect


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``error`` says why there is no status."""

    ok: bool
    status: int | None
    error: str | None = None


async def probe(
    client: httpx.AsyncClient, base_url: str, dialect: Dialect, api_key: str | None, timeout_s: float
) -> ProbeResult:
    """GET the engine's health path. 404 counts as well: some servers answer, but have no such route."""
    try:
        async with asyncio.timeout(timeout_s):
            status, _ = await ask(client, base_url + dialect.health_path, api_key)
    except AskError as error:
        return ProbeResult(False, None, str(error))
    except TimeoutError:
        return ProbeResult(False, None, f"did not answer {dialect.health_path} within {timeout_s:g} s")
    return ProbeResult(status < 300 or status == 404, status)


async def probe_vector(
    client: httpx.AsyncClient, base_url: str, model: str, text: str, api_key: str | None, timeout_s: float
) -> list[float] | None:
    """The vector the engine gives a text; None where it gives none."""
    body = {"model": model, "input": text, "encoding_format": "float"}
    try:
        async with asyncio.timeout(timeout_s):
            status, document = await ask(client, f"{base_url}/v1/embeddings", api_key, body)
        vector = document["data"][0]["embedding"] if status == 200 else None
    except (AskError, TimeoutError, LookupError, TypeError):
        return None
    numbers = isinstance(vector, list) and all(isinstance(x, int | float) for x in vector)
    return vector if numbers else None
