"""The common part of both HTTP transports: options of httpx, and a translation of its errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx

from sage_inference import trust
from sage_inference.client.answers import Answer
from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError
from sage_inference.client.proxies import proxy_for
from sage_inference.client.requests import Request
from sage_inference.client.trusted import context_for

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30)


def options(url: str) -> dict[str, Any]:
    """Options of a client for one server. Raises ``InferenceConnectionError``.

    Without TLS no certificates are loaded, which would take 20 ms.
    """
    proxy = proxy_for(url)
    try:
        verify = context_for(url) if url.startswith("https:") else False
        secure = trust.context() if proxy is not None and proxy.url.scheme == "https" else None
    except trust.TrustError as error:
        raise InferenceConnectionError(f"{url} cannot be trusted: {error}") from None
    return {
        "trust_env": False,
        "proxy": None if proxy is None else httpx.Proxy(proxy.url, ssl_context=secure),
        "verify": verify,
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
    """Raise our errors in place of httpx's."""
    try:
        yield
    except httpx.TimeoutException as error:
        what = "could not be reached" if isinstance(error, httpx.ConnectTimeout) else "did not answer"
        raise InferenceTimeoutError(
            f"{request.url} {what} within {timeout:.3g} s", request_id=request.request_id
        ) from error
    except httpx.ConnectError as error:
        raise InferenceConnectionError(
            f"{request.url} cannot be reached{_way(request.url)}: {_reason(error)}",
            request_id=request.request_id,
        ) from error
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise InferenceConnectionError(
            f"{request.url} broke off{_way(request.url)}: {error or type(error).__name__}",
            request_id=request.request_id,
        ) from error


def _way(url: str) -> str:
    """A part of error messages that names the proxy's variable, because the failure may be the proxy's."""
    try:
        proxy = proxy_for(url)
    except InferenceConnectionError:
        return ""
    return "" if proxy is None else f" through the proxy that {proxy.variable} names"


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    return trust.explain(error) or str(error)
