"""Reads requests from the gateway's decision record: one JSON object a line, see ``telemetry.decisions``."""

from __future__ import annotations

import json
from collections import Counter
from statistics import median
from typing import Any

from sage_inference.config.settings import POLICIES
from sage_inference.replay.closed_loop import closed_loops, linked
from sage_inference.replay.jobs import Job, Outcome, WorkloadError
from sage_inference.replay.recording import Recording, ReplayWorkload, engines_of, full_blocks, sent
from sage_inference.types import RequestPriority, RequestType

BLOCK_TOKENS = 64  # if no request has blocks


def parse(text: str, name: str, closed: bool | None = None) -> ReplayWorkload:
    """The text requests whose engine reported their output, in order of arrival. Others are left out.

    The last attempt of a request counts. ``closed``: see ``closed_loop.closed_loops``. Raises ``WorkloadError``.
    """
    entries = _entries(text, name)
    attempts = {entry["request_id"]: entry for entry in entries}
    try:
        usable = sorted(filter(_usable, attempts.values()), key=lambda entry: entry["arrived_ms"])
        size = max(1, round(median([entry["block_tokens"] for entry in usable]))) if usable else BLOCK_TOKENS
        start = usable[0]["arrived_ms"] if usable else 0.0
        outcomes = [_outcome(entry, start, size) for entry in usable]
        recording = Recording(
            tuple(each for each in (sent(entry, size) for entry in entries) if each is not None),
            outcomes,
            engines_of(usable),
            _policy(usable),
            any((entry.get("engine") or {"window_tokens": 1})["window_tokens"] for entry in usable),
        )
        links = closed_loops(outcomes, [entry.get("connection") for entry in usable], closed)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WorkloadError(f"{name}: its records lack what a replay needs") from None
    jobs = linked([outcome.job for outcome in outcomes], links)
    return ReplayWorkload(jobs, size, len(attempts) - len(jobs), recording)


def _entries(text: str, name: str) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line, parse_constant=_refused)
            entry["request_id"]
        except (ValueError, KeyError, TypeError):
            raise WorkloadError(f"{name}:{number}: not a record of a decision") from None
        entries.append(entry)
    return entries


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no time")


def _usable(entry: dict[str, Any]) -> bool:
    return RequestType(entry["request_type"]).is_llm and bool(entry["completion_tokens"])


def _policy(entries: list[dict[str, Any]]) -> str | None:
    """The policy of most requests; None if it is none of ours."""
    counted = Counter(policy for entry in entries if (policy := entry.get("policy")) in POLICIES)
    return counted.most_common(1)[0][0] if counted else None


def _outcome(entry: dict[str, Any], start: float, block_tokens: int) -> Outcome:
    """The recorded outcome of a request. The first token of an answer in one piece is not known."""
    at = entry["arrived_ms"] - start
    placed = at + (entry.get("waited_ms") or 0.0)
    first, took = entry.get("first_byte_ms"), entry.get("duration_ms")
    streams = entry.get("streams", True)
    job = Job(
        at,
        max(1, entry["prompt_tokens"]),
        entry["completion_tokens"],
        full_blocks(entry, block_tokens),
        RequestType(entry["request_type"]),
        RequestPriority(entry["priority"]),
        entry["tenant"],
        entry["deadline_ms"],
        streams,
        entry.get("model", ""),
    )
    return Outcome(
        job,
        entry.get("instance"),
        placed,
        placed + first if streams and first is not None else None,
        None if took is None else placed + took,
        entry.get("cached_tokens") or 0,
    )
