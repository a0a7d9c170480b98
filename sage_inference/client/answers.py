"""Turns a server's responses into results, or into the errors that they report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_inference.client.errors import (
    AuthenticationError,
    BadRequestError,
    EngineError,
    NotFoundError,
    RateLimitedError,
    SageInferenceError,
)
from sage_inference.client.results import InferenceResult, Ranking

_SHOWN = 300  # characters of a body that is not JSON, in a message


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    latency_ms: float = 0.0

    @property
    def instance(self) -> str | None:
        return self.headers.get("x-sage-instance")


def checked(answer: Answer) -> Answer:
    """The answer itself. Raises the ``SageInferenceError`` of a 4xx or 5xx status."""
    if answer.status >= 400:
        raise error_of(answer)
    return answer


def document(answer: Answer) -> dict[str, Any]:
    """The answer's JSON object. Raises the ``SageInferenceError`` of a 4xx or 5xx status, or of another body."""
    try:
        found = json.loads(checked(answer).body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise unreadable(answer, "is not a JSON object")
    return found


def chat_result(answer: Answer) -> InferenceResult:
    found = document(answer)
    choice = _first_choice(answer, found)
    message = choice.get("message")
    text = text_of(message.get("content") if isinstance(message, dict) else None)
    return _result(answer, found, "chat", text, choice.get("finish_reason"))


def completion_result(answer: Answer) -> InferenceResult:
    found = document(answer)
    choice = _first_choice(answer, found)
    return _result(answer, found, "generate", text_of(choice.get("text")), choice.get("finish_reason"))


def text_of(content: Any) -> str:
    """The text of a message's content, which is a text or a list of parts. Only parts of text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return text_of(content.get("text"))
    return "".join(map(text_of, content)) if isinstance(content, list) else ""


def model_ids(answer: Answer) -> list[str]:
    """The models in OpenAI's list, or in TEI's ``/info``."""
    found = document(answer)
    cards = found.get("data")
    only = found.get("served_model_name") or found.get("model_id")
    if only and cards is None:
        return [str(only)]
    return [str(card["id"]) for card in cards or () if isinstance(card, dict) and "id" in card]


def rankings(answer: Answer) -> list[Ranking]:
    """The rankings, best first, in vLLM's ``{"results": …}`` or in TEI's bare list."""
    try:
        found = json.loads(checked(answer).body)
        entries = found["results"] if isinstance(found, dict) else found
        ranked = [
            Ranking(int(e["index"]), float(e["relevance_score"] if "relevance_score" in e else e["score"]))
            for e in entries
        ]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise unreadable(answer, "is not a ranking") from None
    return sorted(ranked, key=lambda one: -one.score)


def _first_choice(answer: Answer, found: Mapping[str, Any]) -> dict[str, Any]:
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise unreadable(answer, "has no choices")
    return choices[0]


def _result(
    answer: Answer, found: Mapping[str, Any], kind: Any, content: Any, finish_reason: Any
) -> InferenceResult:
    return InferenceResult(
        answer.headers.get("x-request-id") or answer.request_id,
        kind,
        content,
        str(found.get("model") or ""),
        found.get("usage") or {},
        answer.latency_ms,
        finish_reason,
        answer.instance,
        found,
    )


def unreadable(answer: Answer, what: str) -> EngineError:
    text = answer.body[:_SHOWN].decode("utf-8", "replace").strip()
    return EngineError(f"the answer {what}: {text!r}", **_known(answer))


def error_of(answer: Answer) -> SageInferenceError:
    """The error of an answer with a 4xx or 5xx status."""
    message, code, param = _words(answer)
    kind = _KINDS.get(answer.status) or (BadRequestError if answer.status < 500 else EngineError)
    seconds = _seconds(answer.headers.get("retry-after"))
    return kind(message, code=code, param=param, retry_after=seconds, **_known(answer))


_KINDS: dict[int, type[SageInferenceError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    429: RateLimitedError,
}


def is_too_long(error: SageInferenceError) -> bool:
    """Whether an engine refused a request because prompt and answer do not fit into its context."""
    from sage_inference.engines.too_long import STATUSES, says_too_long

    refused = error.status is None or error.status in STATUSES or error.status == 200
    return refused and says_too_long(f"{error.message} {error.code}".encode(errors="replace"))


def stream_error(event: Mapping[str, Any], answer: Answer) -> EngineError:
    """The error that a server reports within a stream."""
    error = event["error"]
    words = error if isinstance(error, dict) else {"message": error}
    code = words.get("code")
    return EngineError(
        str(words.get("message") or "the stream failed"),
        code=None if code is None else str(code),
        **_known(answer),
    )


def _known(answer: Answer) -> dict[str, Any]:
    request_id = answer.headers.get("x-request-id") or answer.request_id
    return {"status": answer.status, "request_id": request_id, "instance": answer.instance}


def _words(answer: Answer) -> tuple[str, str | None, str | None]:
    """Message, code and parameter of an error in OpenAI's, TEI's or FastAPI's format, or in none of them."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        text = answer.body[:_SHOWN].decode("utf-8", "replace").strip()
        return text or f"the server answered {answer.status}", None, None
    error = found.get("error", found)
    if not isinstance(error, dict):
        return str(error), _text(found.get("error_type")), None
    message = error.get("message") or error.get("detail") or f"the server answered {answer.status}"
    return str(message), _text(error.get("code")), _text(error.get("param"))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _seconds(value: str | None) -> float | None:
    """``Retry-After`` in seconds. Engines do not use its other form, a date."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
