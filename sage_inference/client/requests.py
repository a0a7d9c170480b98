"""Makes HTTP requests from a caller's arguments. Adds no fields, and drops none but those that are None."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_inference.client.endpoint import Endpoint

Messages = str | Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int]
Texts = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``body`` is None for a GET."""

    url: str
    path: str
    headers: dict[str, str]
    body: bytes | None = None
    request_id: str = field(default_factory=lambda: f"req-{os.urandom(8).hex()}")


def chat_body(messages: Messages, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat. A single text becomes a user's message."""
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return {"messages": listed, **fields}


def completion_body(prompt: Prompt, fields: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(prompt, str) and any(not isinstance(token, int) for token in prompt):
        raise TypeError("generate() takes one prompt: a text, or the token ids of one")
    return {"prompt": prompt if isinstance(prompt, str) else list(prompt), **fields}


def post(
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    *,
    model: str | None,
    extra_body: Mapping[str, Any] | None = None,
    extra_headers: Mapping[str, str] | None = None,
) -> Request:
    """A POST of ``body``, updated by ``extra_body``. Fields of ``body`` that are None are left out."""
    named = model or endpoint.model
    sent = {"model": named} if named else {}
    sent.update({name: value for name, value in body.items() if value is not None})
    sent.update(extra_body or {})
    headers = {"content-type": "application/json", **_key(endpoint), **(extra_headers or {})}
    return Request(endpoint.url, path, headers, _encoded(sent))


def get(endpoint: Endpoint, path: str) -> Request:
    return Request(endpoint.url, path, _key(endpoint))


def _key(endpoint: Endpoint) -> dict[str, str]:
    return {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}


def _encoded(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8, so it is escaped
        return json.dumps(document, allow_nan=False).encode()
