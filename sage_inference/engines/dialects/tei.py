"""Text Embeddings Inference, as of 1.9 (read from its source)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sage_inference.engines.dialects.base import Dialect
from sage_inference.types import EngineKind

_COMMON = frozenset({"/info", "/tokenize"})
# By the only key of ``model_type`` in /info.
ROUTES_BY_TYPE: Mapping[str, frozenset[str]] = {
    "embedding": _COMMON | {"/embed", "/embed_all", "/embed_sparse", "/similarity", "/v1/embeddings"},
    "reranker": _COMMON | {"/rerank", "/v1/rerank", "/v2/rerank", "/predict"},
    "classifier": _COMMON | {"/predict"},
}
_LIMITS = (
    "max_client_batch_size",
    "max_batch_tokens",
    "max_input_length",
    "max_concurrent_requests",
    "auto_truncate",
)
SPARSE_ROUTES = _COMMON | {"/embed_sparse"}  # of an embedding model with SPLADE pooling
_TYPES = {429: "rate_limit_error", 401: "authentication_error"}


def limits_of(info: Mapping[str, Any]) -> dict[str, int]:
    """The limits in the answer of ``/info``. Those that are missing or no numbers are left out."""
    return {key: info[key] for key in _LIMITS if isinstance(info.get(key), int)}


class _Tei(Dialect):
    def looks_at(self, status: int, route: str) -> bool:
        return status >= 400 and route.startswith("/v1/")

    def wrapped_error(self, status: int, route: str, body: bytes) -> bytes | None:
        """Wrap TEI's ``{"message", "code", "type"}`` on ``/v1``, where OpenAI clients look for ``error``."""
        if not route.startswith("/v1/"):
            return None
        document: Any
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = {"message": body.decode("utf-8", "replace").strip()}
        if not isinstance(document, dict) or isinstance(document.get("error"), dict):
            return None
        message = document.get("message") or document.get("error")  # the latter on its own routes
        fallback = "upstream_error" if status >= 500 else "invalid_request_error"
        error = {
            "message": str(message or f"the engine answered {status}"),
            "type": _TYPES.get(status, fallback),
            "param": None,
            "code": document.get("type") or document.get("error_type") or document.get("code"),
        }
        shown: dict[str, Any] = {"error": error}
        if route.endswith("/rerank"):  # Cohere's clients look for the message here
            shown = {"message": error["message"], **shown}
        return msgspec.json.encode(shown)

    def native_error(self, body: bytes) -> bytes | None:
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if "error" in document or "message" not in document:
            return None
        return msgspec.json.encode({"error": document["message"], "error_type": document.get("type")})


TEI = _Tei(
    EngineKind.TEI,
    paths={"/v1/rerank": "/rerank", "/v2/rerank": "/rerank"},
    llm_routes=frozenset(),
    embedding_routes=ROUTES_BY_TYPE["embedding"],
    payload_bytes=2_000_000,
    too_long=b"must have less than",
    batch_limit=re.compile(rb"maximum allowed batch size (\d{1,9})"),
)
