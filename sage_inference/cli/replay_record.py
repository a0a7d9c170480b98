"""The lines of ``replay`` about a record: how near its replay comes, and what was learned from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sage_inference.replay.compare import Engines
from sage_inference.replay.fidelity import Compared, Fidelity
from sage_inference.replay.recording import ReplayWorkload
from sage_inference.replay.repeats import LATER_MS


def lines(workload: ReplayWorkload, engines: Engines) -> Iterator[str]:
    """The lines before the table, the error first. None for a trace."""
    recording, error = workload.recording, engines.error
    if recording is None or error is None:
        return
    yield _error_line(error, recording.policy is not None)
    yield _times_line(engines)
    if error.figures and len(error.figures[0].replays) > 1:
        yield _replays_line(error)
    if learned_own := len(engines.learned.own):
        own = "times of their own" if engines.recording is not None else "not used with --instances"
        yield f"{learned_own} engines do not all serve the same models: {own}"
    follow = sum(job.follows is not None for job in workload.jobs)
    if follow:
        yield (
            f"closed loop: {follow:,} requests come after the answer to their caller's request before, "
            f"from {len(workload.jobs) - follow:,} callers"
        )


def document(workload: ReplayWorkload, engines: Engines) -> dict[str, Any] | None:
    """The same for a script; None for a trace."""
    recording, error, learned = workload.recording, engines.error, engines.learned
    if recording is None or error is None:
        return None
    return {
        "policy": error.policy,
        "policy_recorded": recording.policy is not None,
        "requests": error.requests,
        "closed_loop_requests": sum(job.follows is not None for job in workload.jobs),
        "figures": [
            {
                "name": each.name,
                "recorded": each.recorded,
                "replayed": each.replayed,
                "error": each.error,
                "replays": list(each.replays),
            }
            for each in error.figures
        ],
        "step_times": asdict(learned.times),
        "learned": {
            "decode": learned.decode,
            "prompts": learned.prompts,
            "request": learned.request,
            "rows": learned.rows,
        },
    }


def _error_line(error: Fidelity, is_known: bool) -> str:
    policy = error.policy if is_known else f"{error.policy}, because the record names none"
    if not error.figures:
        return f"the error of the replay ({policy}) is not known: the record has no times of answers"
    figures = ", ".join(map(_figure, error.figures))
    return f"recorded and replayed ({policy}): {figures}"


def _replays_line(error: Fidelity) -> str:
    """A record is one of many runs that might have been, and so is a replay."""
    count = len(error.figures[0].replays)
    spreads = ", ".join(
        f"{each.name} {_number(each, each.replays[0])} to {_number(each, each.replays[-1])} {_unit(each)}"
        for each in error.figures
    )
    return f"{count} replays, whose arrivals differ by up to {LATER_MS:g} ms: {spreads}; their medians count"


def _figure(each: Compared) -> str:
    recorded, replayed = _number(each, each.recorded), _number(each, each.replayed)
    off = f"{100 * each.error:+.1f} points" if each.is_share else f"{100 * each.error:+.0f} %"
    return f"{each.name} {recorded} and {replayed} {_unit(each)} ({off})"


def _number(each: Compared, value: float) -> str:
    if each.is_share:
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _unit(each: Compared) -> str:
    return "%" if each.is_share else "ms"


def _times_line(engines: Engines) -> str:
    learned = engines.learned
    if not learned.decode:
        why = ", because the record has too few whole answers to learn from" if engines.learns else ""
        return f"step times: the usual ones of an H100 with a 7B model{why}"
    times = learned.times
    parts = [
        f"{times.base_ms:.2f} ms a step",
        f"{1000 * times.sequence_ms:.1f} us a sequence",
        f"{1e6 * times.context_ms:.1f} ms for 1,000,000 tokens in memory",
        f"{1000 * times.prompt_ms:.1f} ms for 1,000 prompt tokens" + ("" if learned.prompts else " (usual)"),
        f"{times.request_ms:.0f} ms a request",
    ]
    if times.ahead:
        parts.append("steps planned one ahead")
    if times.read_ms:
        parts.append(f"front end {times.read_ms:.1f} ms a request and {1000 * times.write_ms:.0f} us a token")
    return f"step times learned from {learned.rows:,} times of answers: {', '.join(parts)}"
