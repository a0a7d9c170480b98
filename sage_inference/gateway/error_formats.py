"""The shape of the errors that the gateway itself answers: each route has that of its API.

OpenAI's shape is ``{"error": {"message", "type", "param", "code"}}``. Anthropic's, on ``/v1/messages``, is
``{"type": "error", "error": {"type", "message"}, "request_id"}``. A stream that breaks off has the same document as
its last event. Errors of engines are passed on as they come.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from sage_inference.gateway.errors import INVALID, ApiError

# Anthropic's names by status (docs.anthropic.com, "Errors"; ``anthropic.types.shared.ErrorType`` of its SDK).
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_SEQUENCE = re.compile(rb'"sequence_number": ?(\d+)')


class ErrorFormat:
    """OpenAI's format, and the methods in which the others differ."""

    event_name = b""  # the name of the event that reports an error in a stream

    def headers(self, request_id: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that errors have in this API."""
        return ()

    def document(self, error: ApiError, request_id: bytes) -> dict[str, Any]:
        shown = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        return {"error": shown}

    def event(self, error: ApiError, request_id: bytes, sent: bytes) -> dict[str, Any]:
        """The data of the event that ends a stream. ``sent`` are the last bytes before it."""
        return self.document(error, request_id)

    def body(self, error: ApiError, request_id: bytes) -> bytes:
        return encode(self.document(error, request_id))


class _Anthropic(ErrorFormat):
    event_name = b"error"  # Anthropic's SDKs ignore an event without a name

    def headers(self, request_id: bytes) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"request-id", request_id),) if request_id else ()

    def document(self, error: ApiError, request_id: bytes) -> dict[str, Any]:
        fallback = INVALID if error.status < 500 else "api_error"
        kind = _ANTHROPIC_TYPES.get(error.status, fallback)
        document: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": error.message}}
        if request_id:
            document["request_id"] = request_id.decode("latin-1")
        return document


class _Responses(ErrorFormat):
    """OpenAI's format, except in streams, whose events have types and numbers.

    The documented event has ``code``, ``message`` and ``param`` at its top. OpenAI's server, and the SDK that raises on
    it, have them under ``error``. The event has both.
    """

    event_name = b"error"

    def event(self, error: ApiError, request_id: bytes, sent: bytes) -> dict[str, Any]:
        numbers = _SEQUENCE.findall(sent)
        return {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
            **self.document(error, request_id),
        }


class _Rerank(ErrorFormat):
    """OpenAI's format, with Cohere's ``message`` beside it."""

    def document(self, error: ApiError, request_id: bytes) -> dict[str, Any]:
        return {"message": error.message, **super().document(error, request_id)}


_OPENAI, _MESSAGES, _RESPONSES, _RERANK = ErrorFormat(), _Anthropic(), _Responses(), _Rerank()


def format_of(path: str) -> ErrorFormat:
    """The format of the errors of a path, which may have a query."""
    path = path.partition("?")[0]
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return _MESSAGES
    if path == "/v1/responses" or path.startswith("/v1/responses/"):
        return _RESPONSES
    if path in ("/v1/rerank", "/v2/rerank"):
        return _RERANK
    return _OPENAI


def encode(document: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # the message quotes half a surrogate pair from the request
        return json.dumps(document).encode()
