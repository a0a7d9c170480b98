"""The answers of a simulated model: deterministic and readable, and they state that they are simulated."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sage_inference.simulator.tokens import pieces

_OPENINGS = (
    "Hello! This is a simulated answer: no model has read your message.",
    "Hi there! A simulated engine is speaking, so take none of this as a model's opinion.",
    "Good to hear from you! This text was made up by a simulated engine, without any model.",
)
_CLOSINGS = (
    "Put a real engine behind the gateway to get a real answer.",
    "Everything but the words is as it will be: the route, the framing, the pace.",
    "With a real engine in my place the rest would stay the same.",
)
_MORE = (
    "The words that follow only fill the length you asked for.",
    "Tokens keep coming at the pace that an engine would have.",
    "Nothing is meant by this sentence, and nothing by the next.",
    "A queue is a place where requests wait for their turn.",
    "Some prompts are short, some are long, and most have met before.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens of an answer, and the reason of its end. ``stop`` is the caller's stop string that ended it."""

    parts: tuple[str, ...]
    finish_reason: str
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Wish:
    """The limits of an answer. ``most`` is the number of tokens that the model's context leaves."""

    most: int
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    keep_stop: bool = False


def seed_of(prompt: str, variant: int) -> int:
    return zlib.crc32(prompt.encode("utf-8", "surrogatepass"), variant)


def friendly(last_message: str, seed: int) -> str:
    words = last_message.split()
    quoted = " ".join(words[:8])[:60] + (" …" if len(words) > 8 else "")
    quote = f' You wrote "{quoted}".' if words else ""
    return f"{_OPENINGS[seed % 3]}{quote} {_CLOSINGS[seed // 3 % 3]}"


def answer(text: str, seed: int, wish: Wish) -> Answer:
    """``text`` in tokens, extended or cut to the limits of ``wish``."""
    parts = pieces(text)
    limit = wish.most if wish.max_tokens is None else min(wish.max_tokens, wish.most)
    wanted = limit if wish.ignore_eos else min(wish.min_tokens, limit)
    if len(parts) < wanted:
        parts = (parts + _filler(wanted - len(parts), seed))[:wanted]
    met = _first_stop(parts, wish.stop)
    if met is not None:
        position, stop = met
        kept = _cut(parts, position, len(stop), keep=wish.keep_stop)
        if len(kept) <= limit:
            return Answer(tuple(kept), "stop", stop)
    if len(parts) > limit or wish.ignore_eos:
        return Answer(tuple(parts[:limit]), "length")
    return Answer(tuple(parts), "stop")


def _filler(count: int, seed: int) -> list[str]:
    start = seed % len(_MORE)
    once = [piece for sentence in _MORE[start:] + _MORE[:start] for piece in pieces(f" {sentence}")]
    return once * (count // len(once) + 1)


def _first_stop(parts: Sequence[str], stops: Sequence[str]) -> tuple[int, str] | None:
    if not stops:
        return None
    text = "".join(parts)
    met = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    return min(met) if met else None


def _cut(parts: Sequence[str], position: int, length: int, *, keep: bool) -> list[str]:
    """The tokens up to the one that completes the stop string. They count even if their text is cut off."""
    end = position + length if keep else position
    kept: list[str] = []
    for part, after in zip(parts, accumulate(map(len, parts)), strict=True):
        before = after - len(part)
        kept.append(part[: max(0, end - before)])
        if after >= position + length:
            break
    return kept


def logprob(piece: str, place: int) -> float:
    """A deterministic and plausible log probability."""
    return -((zlib.crc32(piece.encode("utf-8", "surrogatepass"), place) % 4000) / 1000 + 0.001)


def example_of(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """A small value that is valid under ``schema``, if the schema has only common keywords."""
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    if "$ref" in schema and depth < 16:
        return example_of(_resolved(str(schema["$ref"]), root), root, depth + 1)
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return example_of(schema[choice][0], root, depth + 1)
    if schema.get("allOf"):
        merged = {key: value for part in schema["allOf"] for key, value in part.items()}
        return example_of(merged, root, depth + 1)
    return _example_of_type(schema, root, depth)


def _example_of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "null")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        wanted = schema.get("required", properties)
        return {name: example_of(properties.get(name, {}), root, depth + 1) for name in wanted if depth < 16}
    if kind == "array":
        return [
            example_of(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))
        ]
    if kind == "string":
        text = "simulated"[: schema.get("maxLength", 9)]
        return text.ljust(schema.get("minLength", 0), ".")
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    return True if kind == "boolean" else None


def _resolved(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for step in reference.lstrip("#/").split("/"):
        found = found.get(step, {}) if step and isinstance(found, Mapping) else found
    return found if isinstance(found, Mapping) else {}
