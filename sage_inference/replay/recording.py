"""Attempts as a gateway recorded them: when each was sent to its engine, and when its answer began and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from sage_inference.replay.jobs import Job, Outcome
from sage_inference.types import RequestType

MOST_PER_MS = 1000  # prompt tokens; no engine computes as many, so such a count is wrong
_WHOLE = ("done", "ended")  # outcomes of attempts whose answer came to its end


@dataclass(frozen=True, slots=True)
class Sent:
    """One attempt on an instance. Times are milliseconds since 1970; None for an event that did not happen.

    ``output`` is 0 if the engine did not report its tokens. ``first_ms`` is None for an answer in one piece, because its
    first byte came with the last. Only attempts with ``teaches`` show how long the engine takes.
    """

    instance: str
    sent_ms: float
    first_ms: float | None
    end_ms: float
    prompt: int
    cached: int
    output: int
    choices: int
    teaches: bool
    blocks: Sequence[int] = ()

    @property
    def computed(self) -> int:
        """The prompt tokens that the engine computed. The last one is computed in any case."""
        return max(1, self.prompt - self.cached)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The recorded limits of an instance. None for a limit that is not known, or that it has not.

    ``models`` are those of requests that it might have got.
    """

    kv_tokens: int | None = None
    window_tokens: int | None = None
    slots: int | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """The recorded side of a workload. ``outcomes`` are those of its jobs, in the same order.

    ``policy`` placed most of the requests; None if the record does not have it. ``late_binding`` is False if requests did
    not wait in the gateway.
    """

    attempts: Sequence[Sent]
    outcomes: Sequence[Outcome]
    engines: dict[str, EngineFacts]
    policy: str | None
    late_binding: bool

    @property
    def groups(self) -> list[list[str]]:
        """The names of the engines, together where they serve the same models."""
        found: dict[tuple[str, ...], list[str]] = {}
        for name, facts in self.engines.items():
            found.setdefault(facts.models, []).append(name)
        return list(found.values())

    @property
    def longest(self) -> int:
        """The tokens of the largest request, with its answer."""
        return max((outcome.job.prompt + outcome.job.output for outcome in self.outcomes), default=0)

    @property
    def most_sequences(self) -> int:
        """The most sequences that one engine generated at the same time."""
        return self._most_at_once(lambda each: each.choices)

    @property
    def most_tokens(self) -> int:
        """The most tokens that one engine had in memory for these at the same time, apart from cached ones."""
        return self._most_at_once(lambda each: each.computed + each.output)

    def _most_at_once(self, weight: Callable[[Sent], int]) -> int:
        most = 0
        for name in self.engines:
            changes = []
            for each in self.attempts:
                if each.instance == name and each.first_ms is not None:
                    changes += [(each.first_ms, weight(each)), (each.end_ms, -weight(each))]
            most = max(most, max(accumulate(change for _, change in sorted(changes)), default=0))
        return most


def sent(entry: dict[str, Any], block_tokens: int) -> Sent | None:
    """The attempt of a line of the record; None if it is no text, or its end is not known, or wrong."""
    duration = entry.get("duration_ms")
    if duration is None or duration < 0.0 or not RequestType(entry["request_type"]).is_llm:
        return None
    at = entry["arrived_ms"] + (entry.get("waited_ms") or 0.0)
    first = entry.get("first_byte_ms")
    if first is not None and not 0.0 <= first <= duration:
        first = None
    prompt, cached = max(1, entry["prompt_tokens"]), _cached(entry)
    if prompt - cached > MOST_PER_MS * duration + 1:
        return None
    streams = entry.get("streams", True)
    usage = entry.get("completion_tokens") or 0
    choices = entry.get("choices", 1)
    whole = (
        entry.get("outcome") in (None, *_WHOLE)
        and entry.get("status") in (None, 200)
        and not entry.get("leg")
    )
    return Sent(
        str(entry.get("instance")),
        at,
        at + first if streams and first is not None else None,
        at + duration,
        prompt,
        cached,
        usage,
        choices,
        whole and first is not None and usage > 0 and choices == 1,
        full_blocks(entry, block_tokens),
    )


def full_blocks(entry: dict[str, Any], block_tokens: int) -> tuple[int, ...]:
    """The blocks that the prompt fills."""
    return tuple(entry["blocks"][: max(1, entry["prompt_tokens"]) // block_tokens])


def _cached(entry: dict[str, Any]) -> int:
    """The cached prompt tokens: the engine's count, otherwise the gateway's guess."""
    cached = entry.get("cached_tokens")
    if cached is None:
        chosen = [each for each in entry.get("candidates") or () if each.get("chosen")]
        cached = chosen[0].get("cached_tokens", 0) if chosen else 0
    return int(min(cached, entry["prompt_tokens"] - 1)) if cached > 0 else 0


def engines_of(entries: Iterable[dict[str, Any]]) -> dict[str, EngineFacts]:
    """The instances of the record, those included that never got a request, with their last known limits."""
    found: dict[str, EngineFacts] = {}
    models: dict[str, dict[str, None]] = {}
    for entry in entries:
        names = [each["instance"] for each in entry.get("candidates") or ()]
        names += [str(entry["instance"])] if entry.get("instance") else []
        for name in names:
            found.setdefault(name, EngineFacts())
            models.setdefault(name, {})[entry.get("model", "")] = None
        known = entry.get("engine")
        if known and names:
            found[names[-1]] = EngineFacts(
                known.get("kv_tokens"), known.get("window_tokens"), known.get("max_concurrent_requests")
            )
    return {name: replace(facts, models=tuple(sorted(models[name]))) for name, facts in found.items()}


@dataclass(frozen=True, slots=True)
class ReplayWorkload:
    """Jobs in order of arrival, the size of their blocks, and the number of other requests in the file.

    A record also has the ``recording`` of these jobs, at the speed of the record.
    """

    jobs: list[Job]
    block_tokens: int
    left_out: int = 0
    recording: Recording | None = None

    def at_speed(self, speed: float) -> ReplayWorkload:
        """The same with arrivals, and thinking of callers, ``speed`` times as fast."""
        if speed == 1.0:
            return self
        jobs = [replace(job, at_ms=job.at_ms / speed, think_ms=job.think_ms / speed) for job in self.jobs]
        return replace(self, jobs=jobs)
