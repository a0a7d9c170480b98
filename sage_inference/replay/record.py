"""Reads requests from the gateway's decision record: one JSON object a line, see ``telemetry.decisions``."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from sage_inference.replay.jobs import Job, ReplayWorkload, WorkloadError
from sage_inference.types import RequestPriority, RequestType


def parse(text: str, name: str, speed: float) -> ReplayWorkload:
    """The text requests whose engine reported their output, in order of arrival. Others are left out.

    The last attempt of a request counts. Raises ``WorkloadError``.
    """
    attempts: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            attempts[entry["request_id"]] = entry
        except (ValueError, KeyError, TypeError):
            raise WorkloadError(f"{name}:{number}: not a record of a decision") from None
    try:
        usable = [entry for entry in attempts.values() if _usable(entry)]
        size = round(median(entry["block_tokens"] for entry in usable)) if usable else 64
        start = min((entry["arrived_ms"] for entry in usable), default=0.0)
        jobs = [_job(entry, start, max(1, size), speed) for entry in usable]
    except (ValueError, KeyError, TypeError):
        raise WorkloadError(f"{name}: its records lack what a replay needs") from None
    return ReplayWorkload(sorted(jobs, key=lambda job: job.at_ms), max(1, size), len(attempts) - len(jobs))


def _usable(entry: dict[str, Any]) -> bool:
    return RequestType(entry["request_type"]).is_llm and bool(entry["completion_tokens"])


def _job(entry: dict[str, Any], start: float, block_tokens: int, speed: float) -> Job:
    prompt = max(1, entry["prompt_tokens"])
    return Job(
        (entry["arrived_ms"] - start) / speed,
        prompt,
        entry["completion_tokens"],
        tuple(entry["blocks"][: prompt // block_tokens]),
        RequestType(entry["request_type"]),
        RequestPriority(entry["priority"]),
        entry["tenant"],
        entry["deadline_ms"],
        entry.get("streams", True),
        entry.get("model", ""),
    )
