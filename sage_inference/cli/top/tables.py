"""The tables of ``top``: their columns, and how a row looks in each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sage_inference.cli.numbers import count, duration
from sage_inference.cli.top.rows import Row

TONES = {
    "ready": "green", "starting": "yellow", "waiting": "yellow", "draining": "yellow", "stopping": "yellow",
    "asleep": "yellow", "ejected": "red", "failed": "red", "stuck": "red", "lost": "red",
    "critical": "red", "high": "yellow", "background": "dim", "low": "dim",
}  # fmt: skip
NONE = "-"  # a fact that is not known
_LATE_MS = 5000.0
_BAR = 10  # characters


@dataclass(frozen=True, slots=True)
class TopColumn:
    """A column. A narrow terminal leaves out those of a higher ``rank`` first, and never one of rank 0."""

    name: str
    rank: int
    text: Callable[[Row], str]
    value: Callable[[Row], Any]  # by which rows are sorted; None comes last
    is_number: bool = True
    most: int = 12  # characters
    style: Callable[[Row], str] | None = None
    is_optional: bool = False  # left out while no row has a value


@dataclass(frozen=True, slots=True)
class TopTable:
    name: str
    title: str
    columns: tuple[TopColumn, ...]
    empty: str
    words: Callable[[Row], Sequence[Any]]  # in which the filter looks

    def column(self, name: str) -> TopColumn | None:
        return next((each for each in self.columns if each.name == name), None)

    def matches(self, row: Row, words: Sequence[str]) -> bool:
        """Whether all words, in lower case, are in the row."""
        text = "\n".join(str(each) for each in self.words(row) if each is not None).lower()
        return all(word in text for word in words)


def bar(share: float, width: int = _BAR) -> str:
    """``████░░░░░░``."""
    full = min(max(round(share * width), 0), width)
    return "█" * full + "░" * (width - full)


def _ms(value: float | None) -> str:
    return NONE if value is None else duration(value / 1000)


def _amount(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1f}" if isinstance(value, float) and 0 < value < 100 else count(value)


def _text(
    name: str,
    rank: int,
    key: str,
    most: int,
    style: Callable[[Row], str] | None = None,
    *,
    is_optional: bool = False,
) -> TopColumn:
    return TopColumn(
        name,
        rank,
        lambda row: str(row[key] or NONE),
        lambda row: row[key] or None,
        False,
        most,
        style,
        is_optional,
    )


def _number(
    name: str,
    rank: int,
    key: str,
    text: Callable[[float | None], str] = _amount,
    *,
    is_optional: bool = False,
) -> TopColumn:
    return TopColumn(name, rank, lambda row: text(row[key]), lambda row: row[key], is_optional=is_optional)


def _load(row: Row) -> str:
    running = row["in_flight"]
    if running is None:
        return NONE
    return f"{running:,}/{row['limit']:,}" if row["limit"] else f"{running:,}"


def _load_style(row: Row) -> str:
    return "yellow" if row["limit"] and (row["in_flight"] or 0) >= row["limit"] else ""


def _gib(megabytes: float | None) -> float:
    return (megabytes or 0) / 1024


def _gpu_memory(row: Row) -> str:
    if row["gpu_total_mb"] is None:
        return NONE
    return f"{_gib(row['gpu_used_mb']):.1f}/{_gib(row['gpu_total_mb']):.0f} GiB"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}%"


def _state(row: Row) -> str:
    return "drained" if row["drained"] and row["state"] == "draining" else str(row["state"])


def _models(row: Row) -> str:
    return ", ".join(row["models"]) or NONE


ENGINES = TopTable(
    "engines",
    "Engines",
    (
        _text("engine", 0, "name", 32, lambda row: "bold"),
        TopColumn("model", 5, _models, _models, False, 32),
        TopColumn("state", 0, _state, _state, False, 12, lambda row: TONES.get(row["state"], "")),
        TopColumn("load", 1, _load, lambda row: row["in_flight"], style=_load_style),
        _number("queue", 2, "queued"),
        _number("ttft", 3, "ttft", _ms),
        _number("tpot", 4, "tpot_ms", _ms),
        _number("tokens/s", 3, "tokens_per_s"),
        _number("req/s", 6, "requests_per_s"),
        _text("gpu", 8, "gpu_names", 10, is_optional=True),
        TopColumn("memory", 7, _gpu_memory, lambda row: row["gpu_used_mb"], most=16, is_optional=True),
        _number("use", 7, "gpu_percent", _percent, is_optional=True),
        _text("note", 9, "note", 60, lambda row: "red" if TONES.get(row["state"]) == "red" else "dim", is_optional=True),
    ),
    "no engines yet; sage inference load MODEL starts one",
    lambda row: (row["name"], *row["models"], row["state"], row["engine"], row["kind"], row["gpu_names"], row["note"]),
)  # fmt: skip


def route(row: Row) -> str:
    """``chat``, ``embeddings``, ``rerank``."""
    path = str(row["route"]).strip("/").removeprefix("v1/").removeprefix("v2/")
    return {"chat/completions": "chat"}.get(path, path) + (f" ({row['leg']})" if row["leg"] else "")


def outcome(row: Row) -> str:
    """``running``, ``200``, ``503 failed``, ``cancelled``."""
    if row["outcome"] is None:
        return "streaming" if row["ttft_ms"] is not None else "running"
    if row["outcome"] in ("done", "ended") and row["status"]:
        return str(row["status"])
    is_error = row["status"] is not None and row["status"] >= 400
    return f"{row['status']} {row['outcome']}" if is_error else str(row["outcome"])


def outcome_style(row: Row) -> str:
    if row["outcome"] is None:
        return "cyan"
    if row["outcome"] in ("failed", "cut") or (row["status"] or 0) >= 400:
        return "red"
    return "green" if row["outcome"] in ("done", "ended", "prefilled") else "yellow"


def _began(row: Row) -> str:
    return time.strftime("%H:%M:%S", time.localtime(row["arrived_ms"] / 1000))


def _prompt(row: Row) -> str:
    return ("~" if row["tokens_estimated"] else "") + count(row["prompt_tokens"])


def _late(key: str) -> Callable[[Row], str]:
    return lambda row: "yellow" if (row[key] or 0) > _LATE_MS else ""


REQUESTS = TopTable(
    "requests",
    "Requests",
    (
        TopColumn("time", 8, _began, lambda row: row["arrived_ms"], False),
        TopColumn("route", 4, route, route, False, 20),
        _text("model", 1, "model", 32, lambda row: "bold"),
        _text("key", 5, "tenant", 16, is_optional=True),
        _text("engine", 2, "instance", 24),
        _text("why", 6, "why", 40, lambda row: "dim"),
        _text("priority", 9, "priority", 10, lambda row: TONES.get(row["priority"], "")),
        TopColumn("queue", 2, lambda row: _ms(row["queue_ms"]), lambda row: row["queue_ms"], style=_late("queue_ms")),
        TopColumn("ttft", 2, lambda row: _ms(row["ttft_ms"]), lambda row: row["ttft_ms"], style=_late("ttft_ms")),
        _number("took", 7, "age_ms", _ms),
        TopColumn("in", 10, _prompt, lambda row: row["prompt_tokens"]),
        _number("out", 10, "completion_tokens"),
        _number("tokens/s", 3, "tokens_per_s"),
        TopColumn("status", 0, outcome, outcome, False, 14, outcome_style),
    ),
    "no requests yet",
    lambda row: (
        row["request_id"], row["route"], route(row), row["model"], row["tenant"], row["instance"], row["why"],
        row["priority"], outcome(row), row["outcome"],
    ),
)  # fmt: skip

QUEUE = TopTable(
    "queue",
    "Queue",
    (
        _text("by", 0, "by", 10, lambda row: "dim"),
        _text("name", 0, "name", 48, lambda row: TONES.get(row["name"], "") if row["by"] == "priority" else ""),
        _number("requests", 0, "requests"),
        TopColumn("share", 1, lambda row: _percent(100 * row["share"]), lambda row: row["share"]),
        TopColumn("", 2, lambda row: bar(row["share"], 20), lambda row: row["share"], False, 20, lambda row: "cyan"),
    ),
    "nothing waits",
    lambda row: (row["by"], row["name"]),
)  # fmt: skip

TABLES = {each.name: each for each in (ENGINES, REQUESTS, QUEUE)}


def sortable() -> list[str]:
    """The names of the columns that any table can be sorted by."""
    return sorted({column.name for table in TABLES.values() for column in table.columns if column.name})
