"""Questions to Ray's dashboard over HTTP. An answer is bounded in time and size, whatever listens there."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sage_inference import trust
from sage_inference.cli.errors import Failure
from sage_inference.visible import visible

if TYPE_CHECKING:
    import ssl

# Ray answers within milliseconds, and on a machine without free CPU within half a minute.
QUESTION_S = 45.0
_MOST_BYTES = 32 << 20
_PIECE = 1 << 16
_QUOTED = 200


class UnreachableError(Failure):
    """The dashboard gave no answer. Another attempt may get one."""


class Dashboard:
    """``url`` has no path behind it. ``token`` is sent with each question."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        parts = urlsplit(url)
        self._secure = parts.scheme.lower() == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._token = token

    def get(self, path: str) -> Any:
        """The decoded answer. Raises ``Failure``."""
        return self._answer(*self._ask("GET", path, None, QUESTION_S), path)

    def post(self, path: str, body: Any) -> Any:
        """The decoded answer. Raises ``Failure``."""
        return self._answer(*self._ask("POST", path, body, QUESTION_S), path)

    def try_post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and answer, None if it is no JSON. Raises ``Failure`` if none comes."""
        status, raw = self._ask("POST", path, body, QUESTION_S)
        self._refuse(status, path)
        try:
            return status, json.loads(raw)
        except (ValueError, RecursionError):
            return status, None

    def _ask(self, method: str, path: str, body: Any, limit_s: float) -> tuple[int, bytes]:
        headers = {"accept": "application/json", "accept-encoding": "identity", "connection": "close"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            content, headers["content-type"] = json.dumps(body).encode(), "application/json"
        deadline = time.monotonic() + limit_s
        connection = self._connection(limit_s)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return response.status, _body(connection, response, deadline)
        except TimeoutError:
            raise UnreachableError(
                f"{self.url} did not answer within {limit_s:g} s", _HINT, "unreachable"
            ) from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise UnreachableError(
                f"{self.url} cannot be asked: {_reason(error)}", _HINT, "unreachable"
            ) from None
        finally:
            connection.close()

    def _connection(self, limit_s: float) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=limit_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=limit_s, context=_context())

    def _answer(self, status: int, raw: bytes, path: str) -> Any:
        self._refuse(status, path)
        if status != 200:
            shown = visible(" ".join(raw.decode("utf-8", "replace").split())[:_QUOTED])
            words = f"{self.url}{path} answers {status}{f': {shown}' if shown else ''}"
            if status >= 500:
                raise UnreachableError(words, "ray status shows whether the cluster is well", "unreachable")
            raise Failure(words, _HINT, "not_a_dashboard" if status == 404 else "failed")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise Failure(
                f"{self.url}{path} does not answer as a Ray dashboard does", _HINT, "not_a_dashboard"
            ) from None

    def _refuse(self, status: int, path: str) -> None:
        if status in (401, 403):
            raise Failure(
                f"{self.url} {'refuses the token' if self._token else 'asks for a token'}",
                "--token env:RAY_AUTH_TOKEN, or file:PATH",
                "unauthorized",
            )
        if 300 <= status < 400:
            raise Failure(
                f"{self.url}{path} is somewhere else now ({status})",
                "give the dashboard's own address as --head",
                "not_a_dashboard",
            )


_HINT = "--head URL is the address of the dashboard that ray start --head printed"


def segment(name: str) -> str:
    """``name`` as one part of a path."""
    return quote(name, safe="")


def _context() -> ssl.SSLContext:
    try:
        return trust.context()
    except trust.TrustError as error:
        raise Failure(str(error)) from None


def _body(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float
) -> bytes:
    """The whole body. Each read is bounded by what is left of the time, so that a trickle ends too."""
    pieces, size = [], 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        piece = response.read1(_PIECE)
        if not piece:
            break
        size += len(piece)
        if size > _MOST_BYTES:
            raise ValueError(f"its answer has more than {_MOST_BYTES >> 20} MiB")
        pieces.append(piece)
    if response.length:
        raise ValueError("its answer was cut off")
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    if (distrust := trust.explain(error)) is not None:
        return distrust
    if isinstance(error, socket.gaierror):
        return (error.strerror or "its name is not known").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.HTTPException):
        return "it does not speak HTTP properly, or broke off"
    return visible(str(error))[:_QUOTED]
