"""Parts of vLLM's JSON answers and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sage_inference.simulator.answers import logprob
from sage_inference.simulator.tokens import id_of
from sage_inference.simulator.vllm.core import Choice, usage_of

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"
_ALTERNATIVES = (" the", " a", " of", " to", " and", " in", " is", " that", " it", " as")


def event(document: Any) -> bytes:
    return b"data: " + encode(document) + b"\n\n"


def named_event(document: dict[str, Any]) -> bytes:
    """An event with an ``event:`` line, as in the responses and messages protocols."""
    return b"event: " + str(document["type"]).encode() + b"\n" + event(document)


def usage(choices: Sequence[Choice], *, chat: bool) -> dict[str, Any]:
    prompt, produced, cached = usage_of(choices)
    details = {
        "cached_tokens": cached,
        "created_cache_tokens": 0 if chat else None,
        "multimodal_tokens": None,
    }
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + produced,
        "completion_tokens": produced,
        "prompt_tokens_details": details,
        "completion_tokens_details": None,
    }


def last_usage(choices: Sequence[Choice], *, chat: bool) -> dict[str, Any]:
    """The usage in a stream's usage event, which leaves out null fields."""
    full = usage(choices, chat=chat)
    del full["completion_tokens_details"]
    details = full["prompt_tokens_details"]
    full["prompt_tokens_details"] = {key: value for key, value in details.items() if value is not None}
    return full


def running_usage(prompt_tokens: int, produced: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + produced,
        "completion_tokens": produced,
        "completion_tokens_details": None,
    }


def _likely(part: str, place: int, count: int) -> list[tuple[str, float]]:
    """A token and the likeliest alternatives at its place, with decreasing probability."""
    first = (part, logprob(part, place))
    others = [one for one in _ALTERNATIVES if one != part][: max(0, count - 1)]
    return [first, *((one, first[1] - 0.25 * (i + 1)) for i, one in enumerate(others))]


def chat_logprobs(parts: Sequence[str], start: int, alternatives: int) -> dict[str, Any]:
    def entry(part: str, value: float) -> dict[str, Any]:
        return {"token": part, "logprob": value, "bytes": list(part.encode("utf-8", "replace"))}

    content = []
    for place, part in enumerate(parts, start):
        likely = _likely(part, place, alternatives)
        top = [entry(*one) for one in likely[:alternatives]]
        content.append({**entry(*likely[0]), "top_logprobs": top})
    return {"content": content}


def completion_logprobs(
    parts: Sequence[str], start: int, offset: int, alternatives: int, *, first_unknown: bool = False
) -> dict[str, Any]:
    """``first_unknown``: the first token has no probability, because it begins an echoed prompt."""
    offsets, values, tops = [], [], []
    for place, part in enumerate(parts, start):
        offsets.append(offset)
        offset += len(part)
        likely = _likely(part, place, max(1, alternatives))
        unknown = first_unknown and place == start
        values.append(None if unknown else likely[0][1])
        tops.append(None if unknown else dict(likely))
    return {"text_offset": offsets, "token_logprobs": values, "tokens": list(parts), "top_logprobs": tops}


def prompt_logprobs(parts: Sequence[str], alternatives: int) -> list[Any]:
    found: list[Any] = [None]
    for place, part in enumerate(parts[1:], 1):
        ranked = enumerate(_likely(part, place, max(1, alternatives)), 1)
        found.append(
            {
                str(id_of(one)): {"logprob": value, "rank": rank, "decoded_token": one}
                for rank, (one, value) in ranked
            }
        )
    return found[: len(parts)]
