"""Whether an answer means that the server has no such route, rather than no such model."""

from __future__ import annotations

import json
import re

from sage_inference.types import ExecutionInstanceType

_MODEL = re.compile(rb"model|adapter|lora", re.IGNORECASE)
# FastAPI's (vLLM, SGLang, infinity), Go's and gin's (Ollama, llama-swap), llama.cpp's, Express's.
_UNKNOWN = re.compile(
    rb"^\s*(?:404 page not found|404 not found|not found|cannot post /\S*|<pre>cannot post .*)?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_DETAILS = frozenset({"not found", "file not found", "page not found", "method not allowed"})
_LLM = frozenset({"/v1/chat/completions", "/v1/completions"})
STATUSES = frozenset({404, 405, 501})
MAX_BYTES = 4096


def means_no_route(status: int, body: bytes, models: int) -> bool:
    """``models`` is the number of models that the server lists. With several, a 501 may concern one of them only."""
    if len(body) > MAX_BYTES:
        return False
    if status == 501:
        return models <= 1
    if status == 405:
        return True
    return status == 404 and (_UNKNOWN.match(body) is not None or _detail(body) in _DETAILS)


def _detail(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or _MODEL.search(body):
        return None
    error = document.get("error")
    found = document.get("detail") or (error.get("message") if isinstance(error, dict) else error)
    return found.strip(" .").lower() if isinstance(found, str) else None


def kind_without(kind: ExecutionInstanceType, missing: set[str]) -> ExecutionInstanceType:
    """The kind of an instance that was taken for one of both kinds, without its missing routes."""
    if kind is not ExecutionInstanceType.LLM_EMBEDDING or not missing:
        return kind
    if "/v1/embeddings" in missing:
        return ExecutionInstanceType.GENERAL
    return ExecutionInstanceType.EMBEDDING if missing >= _LLM else kind
