"""The state of a managed engine in words and figures, from its JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_inference.cli.columns import Column

Document = dict[str, Any]

COLOURS = {
    "ready": "green",
    "running": "green",
    "waiting": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "failed": "red",
    "stuck": "red",
    "lost": "red",
}
_FAILED = ("failed", "stuck", "lost")
PHASES = {
    "boot": "starting up",
    "fetch": "downloading",
    "load": "loading",
    "compile": "compiling",
    "capture": "capturing",
    "warm": "warming up",
}


def phase(engine: Document) -> str | None:
    """The step of an engine's start; None outside a start. The first one has no name until its process runs."""
    if engine["state"] != "starting":
        return None
    step = engine.get("phase") or "boot"
    return PHASES.get(step, str(step))


def share(engine: Document) -> float | None:
    """How much of the phase is done, from 0 to 1."""
    done = engine.get("progress")
    return None if done is None else min(max(float(done), 0.0), 1.0)


def state(engine: Document) -> str:
    """``loading 48%``, ``ready``, ``failed, again in 4 s``."""
    word, done = phase(engine) or str(engine["state"]), share(engine)
    if engine["state"] == "starting" and done is not None:
        word += f" {done:.0%}"
    failure = engine.get("failure") or {}
    if engine["state"] in ("failed", "waiting") and failure and not failure.get("permanent"):
        retry = failure.get("retry_in_s")
        if retry is not None:
            word = f"failed, again in {span(max(retry, 1.0))}"
    return f"{word}, outdated" if engine.get("outdated") else word


def clock(seconds: float) -> str:
    """``0:41``, ``12:05``, ``1:00:00``."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def taken(engine: Document) -> str:
    """The time of a start so far, and the time that it is expected to take: ``0:41 of ~1:30``."""
    if engine.get("since_s") is None:
        return ""
    expected = engine.get("expected_s")
    return clock(engine["since_s"]) + (f" of ~{clock(expected)}" if expected and expected >= 1 else "")


def span(seconds: float) -> str:
    """One unit: ``41 s``, ``5 min``, ``3 h``, ``2 d``."""
    whole = int(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def called(engine: Document) -> str:
    """``qwen2.5-7b-instruct (vllm)``."""
    return f"{engine['name']} ({engine['engine']})" if engine.get("engine") else str(engine["name"])


def columns(engines: Sequence[Document]) -> list[Column]:
    """The columns of ``ps``. Those without a value in any row are left out."""
    made = [
        Column("NAME", [str(each["name"]) for each in engines], 0),
        Column("STATE", [state(each) for each in engines], 0),
        Column("REQUESTS", [_requests(each) for each in engines], 3),
        Column("UP", [_up(each) for each in engines], 2),
        Column("ENGINE", [each.get("engine") or "-" for each in engines], 1),
        Column("GPU", [_gpus(each) for each in engines], 4),
        Column("MEMORY", [_memory(each) for each in engines], 5),
        Column("RESTARTS", [str(each.get("restarts") or "-") for each in engines], 6),
        Column("PID", [str(each.get("pid") or "-") for each in engines], 8),
        Column("MODEL", [str(each.get("model") or "-") for each in engines], 7),
    ]
    return [column for column in made if not column.is_empty]


def _requests(engine: Document) -> str:
    running, waiting = engine.get("in_flight"), engine.get("queued")
    if running is None and waiting is None:
        return "-"
    return f"{running or 0}, {waiting} wait" if waiting else str(running or 0)


def _up(engine: Document) -> str:
    """How long it serves; of a start, how long it takes."""
    if engine["state"] in ("ready", "draining", "running") and engine.get("uptime_s") is not None:
        return span(engine["uptime_s"])
    return taken(engine) or "-" if engine["state"] in ("starting", "waiting") else "-"


def _gpus(engine: Document) -> str:
    return ",".join(str(gpu) for gpu in engine.get("gpus") or ()) or "-"


def _memory(engine: Document) -> str:
    megabytes = engine.get("memory_mb")
    if not megabytes:
        return "-"
    return f"{megabytes / 1024:.1f} GiB" if megabytes >= 1024 else f"{megabytes:.0f} MiB"


def remarks(engines: Sequence[Document]) -> list[tuple[str, str | None]]:
    """The text and the hint for each engine that a person should look at."""
    found: list[tuple[str, str | None]] = []
    for each in engines:
        name, failure = each["name"], each.get("failure")
        if failure:
            before = "" if each["state"] in _FAILED else " failed before"
            found.append((f"{name}{before}: {failure['message']}", failure.get("hint")))
        elif each["state"] == "stuck":
            found.append((f"{name} was killed and has not ended; the system holds its process", None))
        elif each["state"] == "lost":
            found.append((f"{name} runs, but its keeper does not answer, so it is left alone", _end(each)))
        if warning := each.get("warning"):
            found.append((f"{name}: {warning['message']}", warning.get("hint")))
        if each.get("outdated"):
            restart = f"sage inference engine restart {name}"
            found.append((f"{name} runs with earlier settings; a restart applies those of now", restart))
    return found


def _end(engine: Document) -> str | None:
    return f"kill {engine['pid']} ends it" if engine.get("pid") else None
