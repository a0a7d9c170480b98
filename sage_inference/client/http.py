"""What both HTTP transports share: options of httpx, and its errors in our words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from sage_inference.client.answers import Answer
from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError
from sage_inference.client.requests import Request
from sage_inference.config.address import is_loopback

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30)


def options(url: str) -> dict[str, Any]:
    """A proxy in the environment is not for this machine's own servers: what they get stays here.

    Without TLS there is no certificate to check, and none to load, which takes 20 ms.
    """
    parts = urlsplit(url)
    return {
        "trust_env": not is_loopback(parts.hostname or ""),
        "verify": parts.scheme == "https",
        "limits": _LIMITS,
        "follow_redirects": False,
    }


def prepared(client: httpx.Client | httpx.AsyncClient, request: Request, timeout: float) -> httpx.Request:
    return client.build_request(
        "GET" if request.body is None else "POST",
        request.url + request.path,
        content=request.body,
        headers={"x-request-id": request.request_id, **request.headers},
        timeout=timeout,
    )


def answer(request: Request, response: httpx.Response, body: bytes, since: float) -> Answer:
    took = (time.perf_counter() - since) * 1000
    return Answer(response.status_code, dict(response.headers), body, request.request_id, took)


@contextlib.contextmanager
def translated(request: Request, timeout: float) -> Iterator[None]:
    """httpx's errors leave as ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        what = "could not be reached" if isinstance(error, httpx.ConnectTimeout) else "did not answer"
        raise InferenceTimeoutError(
            f"{request.url} {what} within {timeout:.3g} s", request_id=request.request_id
        ) from error
    except httpx.ConnectError as error:
        raise InferenceConnectionError(
            f"{request.url} cannot be reached: {_reason(error)}", request_id=request.request_id
        ) from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise InferenceConnectionError(
            f"{request.url} broke off: {error or type(error).__name__}", request_id=request.request_id
        ) from error


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    return str(error)
