"""The rows of the tables, from the live document. A fact that is not known is None."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sage_inference.cli import enginetext

Row = dict[str, Any]

_GPU_NUMBER = re.compile(r"(?:cuda:|gpu:?)?(\d+)", re.IGNORECASE)


def key_of(row: Row) -> Any:
    """The identity of a request's attempt, also while it moves from the running ones to those that ended."""
    return row["request_id"], row["instance"], row["arrived_ms"], row["leg"]


def engine_rows(document: dict[str, Any], *, has_rates: bool = True) -> list[Row]:
    """The instances, and after them the engines of the gateway that are no instance now."""
    managed = {each["name"]: each for each in document["engines"]}
    gpus = {each["index"]: each for each in document["gpus"]}
    rows = []
    for each in document["instances"]:
        engine = managed.pop(each["name"], None)
        row = each | {"key": each["name"], "note": _note(each, engine), "ttft": _ttft(each)}
        row |= _gpu_facts(engine["gpus"] if engine and engine["gpus"] else each["gpu"], gpus)
        if not has_rates:
            row |= {"tokens_per_s": None, "requests_per_s": None}
        rows.append(row)
    return rows + [_absent(each, gpus) for each in managed.values()]


def _absent(engine: Row, gpus: dict[int, Row]) -> Row:
    nothing = dict.fromkeys(("limit", "ttft", "tpot_ms", "tokens_per_s", "requests_per_s"))
    models = [engine["model"]] if engine["model"] else []
    facts = {"key": engine["name"], "models": models, "note": _note(engine, engine), "drained": False}
    return {**nothing, **engine, **facts, **_gpu_facts(engine["gpus"], gpus)}


def _ttft(instance: Row) -> float | None:
    """The time to the first token; of an instance that streams nothing, the time to the first byte."""
    found: float | None = instance["ttft_ms"]
    return instance["ttfb_ms"] if found is None else found


def _note(row: Row, engine: Row | None) -> str:
    if engine is not None:
        if engine["failure"]:
            return f"{enginetext.state(engine)}: {engine['failure']['message']}"
        if engine["state"] == "starting":
            return f"{enginetext.state(engine)}, {enginetext.taken(engine)}".removesuffix(", ")
    return row.get("last_error") or ("drained by hand" if row.get("drained") else "")


def _gpu_facts(named: Any, gpus: dict[int, Row]) -> Row:
    """The GPUs of an engine by name, with memory and use where they are known."""
    names = [str(each) for each in named] if isinstance(named, list) else [named] if named else []
    numbers = [int(found[1]) for name in names if (found := _GPU_NUMBER.fullmatch(name))]
    known = [gpus[number] for number in numbers if number in gpus]
    facts: Row = {
        "gpu_names": ",".join(names) or None,
        "gpu_used_mb": None,
        "gpu_total_mb": None,
        "gpu_percent": None,
    }
    if known and len(known) == len(names):
        facts["gpu_used_mb"] = sum(each["memory_used_mb"] for each in known)
        facts["gpu_total_mb"] = sum(each["memory_total_mb"] for each in known)
        percents = [each["use_percent"] for each in known if each["use_percent"] is not None]
        facts["gpu_percent"] = sum(percents) / len(percents) if percents else None
    return facts


def ended_row(row: Row) -> Row:
    """A row of ``GET /admin/requests``, as ``request_rows`` takes it."""
    return row | {"key": key_of(row), "age_ms": row["total_ms"]}


def request_rows(document: dict[str, Any], ended: Sequence[Row]) -> list[Row]:
    """The requests that run, newest first, and after them those that ended, newest first."""
    keys = {row["key"] for row in ended}
    running = [
        row | {"key": key, "age_ms": max(document["at_ms"] - row["arrived_ms"], 0)}
        for row in document["running"]
        if (key := key_of(row)) not in keys
    ]
    return running[::-1] + list(ended)[::-1]


def queue_rows(document: dict[str, Any]) -> list[Row]:
    """The waiting requests by priority, key, model and engine."""
    queue = document["queue"]
    counted: list[tuple[str, str, int]] = [
        ("priority", name, requests) for name, requests in queue["by_priority"].items()
    ]
    counted += [("key", each["tenant"] or "no key", each["requests"]) for each in queue["by_tenant"]]
    counted += [("model", each["model"], each["requests"]) for each in queue["by_model"]]
    counted += [("engine", each["name"], each["queued"]) for each in document["instances"] if each["queued"]]
    return _with_shares(counted, queue["requests"])


def _with_shares(counted: Sequence[tuple[str, str, int]], all_of_them: int) -> list[Row]:
    return [
        {"key": (by, name), "by": by, "name": name, "requests": count, "share": count / max(all_of_them, 1)}
        for by, name, count in counted
    ]
