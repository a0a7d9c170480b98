"""One HTTP question to a machine of a source, of bounded size, which fails with ``QuestionError`` only."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from sage_inference import trust
from sage_inference.error_chain import causes_of
from sage_inference.visible import visible

_QUOTED_BYTES = 200


class QuestionError(Exception):
    """The server was not reached, or its answer cannot be used. The message has the reason, and no secret."""


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer: its status, its body, and the value of ``Location``, which is not followed."""

    status: int
    body: bytes
    location: str = ""

    @property
    def beginning(self) -> str:
        """The first characters of the body on one line, for an error."""
        return visible(" ".join(self.body[:_QUOTED_BYTES].decode("utf-8", "replace").split()))


def question_client(tls: bool) -> httpx.AsyncClient:
    """A client without proxies, redirects and time-outs. The time is limited by its caller. Raises ``TrustError``."""
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113
        follow_redirects=False,
        trust_env=False,
        verify=trust.context() if tls else False,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


async def ask(
    client: httpx.AsyncClient,
    url: str,
    most_bytes: int,
    headers: Mapping[str, str] | None = None,
) -> PlainAnswer:
    """GET ``url``. Raises ``QuestionError``.

    An answer in a content coding is refused. None is asked for, and a few bytes of it can stand for gigabytes.
    """
    sent = {"accept": "application/json", "accept-encoding": "identity", "connection": "close"}
    try:
        request = client.build_request("GET", url, headers={**sent, **(headers or {})})
        response = await client.send(request, stream=True)
        try:
            got = await _body(response, most_bytes)
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise QuestionError(_reason(error)) from None
    return PlainAnswer(response.status_code, got, response.headers.get("location", ""))


async def _body(response: httpx.Response, most_bytes: int) -> bytes:
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise QuestionError(f"answers in the content coding {visible(coding)[:40]}, which was not asked for")
    pieces, size = [], 0
    async for piece in response.aiter_raw(65536):
        size += len(piece)
        if size > most_bytes:
            raise QuestionError(f"answers with more than {most_bytes >> 10:,} KiB")
        pieces.append(piece)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    if (distrust := trust.explain(error)) is not None:
        return f"cannot be reached: {distrust}"
    for cause in causes_of(error):
        if isinstance(cause, socket.gaierror):
            return f"cannot be reached: {(cause.strerror or 'its name is not known').lower()}"
        if isinstance(cause, OSError) and cause.errno:
            return f"cannot be reached: {os.strerror(cause.errno).lower()}"
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached: no connection"
    if "without sending a response" in str(error):
        return "ends the connection without an HTTP answer"
    if isinstance(error, httpx.NetworkError) or "without sending" in str(error):
        return "broke its answer off"
    # The text of such an error may quote a header, which may hold a key.
    return f"does not speak HTTP properly: {type(error).__name__}"
