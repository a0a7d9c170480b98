"""One HTTP question to an engine's server, of bounded size, which fails with ``QueryError`` only."""

from __future__ import annotations

import json
from typing import Any

import httpx

from sage_inference import trust
from sage_inference.engines.lack import lack
from sage_inference.engines.unix_socket import SocketError

MAX_BYTES = 1 << 20


class QueryError(Exception):
    """The server was not reached or did not answer. The message has the reason. ``refused``: nothing listens there."""

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class QueryNotSentError(QueryError):
    """This machine lacks a resource for the question, which the message names. It shows nothing about the server."""


async def ask(client: httpx.AsyncClient, url: str, api_key: str | None, post: Any = None) -> tuple[int, Any]:
    """GET ``url``, or POST a JSON document. Returns status and JSON document, or None. Raises ``QueryError``."""
    status, body = await ask_bytes(client, url, api_key, post)
    try:
        return status, json.loads(body)
    except (ValueError, RecursionError):
        return status, None


async def ask_bytes(
    client: httpx.AsyncClient, url: str, api_key: str | None, post: Any = None
) -> tuple[int, bytes]:
    """Like ``ask``, with the answer's bytes.

    Every question has a connection of its own. Questions come at the same intervals at which engines close idle
    connections (vLLM after 5 s), so a kept connection would often be closed just when the next question is sent.
    """
    headers = {"connection": "close"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    body = bytearray()
    try:
        async with client.stream("POST" if post else "GET", url, headers=headers, json=post) as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_BYTES:
                    raise QueryError(f"answers {httpx.URL(url).path} with more than {MAX_BYTES} bytes")
    except httpx.TimeoutException:
        raise QueryError("does not answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        if (lacking := lack(error)) is not None:
            raise QueryNotSentError(f"not asked: {lacking.what}") from None
        if isinstance(error, httpx.ConnectError):
            refused, reason = _reason(error)
            raise QueryError(f"cannot be reached: {reason}", refused) from None
        raise QueryError(f"does not speak HTTP properly: {type(error).__name__}") from None
    return response.status_code, bytes(body)


def _reason(error: httpx.ConnectError) -> tuple[bool, str]:
    """Whether the connection was refused, and the reason in words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SocketError):
            return cause.gone, cause.reason
        if isinstance(cause, ConnectionRefusedError):
            return True, "connection refused"
        cause = cause.__cause__ or cause.__context__
    if (distrust := trust.explain(error)) is not None:
        return False, distrust
    return False, "no connection" if "attempts failed" in str(error) else str(error)
