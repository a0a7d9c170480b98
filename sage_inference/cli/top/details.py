"""All facts of the row that is selected."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_inference.cli.numbers import count, duration
from sage_inference.cli.top.grid import Line, Styled
from sage_inference.cli.top.rows import Row
from sage_inference.cli.top.tables import outcome, outcome_style
from sage_inference.visible import visible, without_colours

if TYPE_CHECKING:
    from sage_inference.cli.top.seen import Picture
    from sage_inference.cli.top.view import TopView

_NARROWEST = 10  # a text is wrapped to no less

Fact = tuple[str, Any, str]


def details_of(picture: Picture, view: TopView, width: int) -> list[Line]:
    """The facts as lines: a title, and below it each fact that is known."""
    rows = picture.tables[view.focus]
    row = next((each for each in rows if each["key"] == view.table.selected), None)
    if row is None:
        return [[Styled("the row is gone", "dim")]]
    title, facts = {"engines": _engine, "requests": _request, "queue": _queue}[view.focus](row)
    known = [(name, str(value), style) for name, value, style in facts if value not in (None, "")]
    longest = max(len(name) for name, _, _ in known)
    lines: list[Line] = [[Styled(visible(title), "bold")], []]
    for name, value, style in known:
        label = f"{name:<{longest}}  "
        for piece in _wrapped(visible(value), width - len(label)):
            lines.append([Styled(label, "dim"), Styled(piece, style)])
            label = " " * len(label)
    return [*lines, *_decision(view.explanation, width)] if view.explained is not None else lines


def _decision(found: list[Row] | str | None, width: int) -> list[Line]:
    """The decision on the request, as ``explain`` shows it."""
    if found is None:
        return [[], [Styled("asking for the decision", "dim")]]
    if isinstance(found, str):
        return [[], *([Styled(piece, "yellow")] for piece in _wrapped(visible(found), width))]
    from sage_inference.cli.explain import explanation

    texts = [without_colours(text) for text in explanation(found, width)]
    return [[], *([Styled(piece)] for text in texts for piece in _wrapped(text, width))]


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:  # spaces of a table stay
        return [text]
    return textwrap.wrap(text, max(width, _NARROWEST), break_on_hyphens=False)


def _engine(row: Row) -> tuple[str, Sequence[Fact]]:
    facts: list[Fact] = [
        ("state", row["state"], "bold"),
        ("note", row["note"], ""),
        ("models", ", ".join(row["models"]), ""),
        ("program", row["engine"], ""),
        ("kind", row["kind"], ""),
        ("url", row["url"], ""),
        ("in flight", row["in_flight"], ""),
        ("limit", row["limit"], ""),
        ("may serve", row["queued"], ""),
        ("TTFT", _ms(row["ttft"]), ""),
        ("TPOT", _ms(row["tpot_ms"]), ""),
        ("tokens/s", _rate(row["tokens_per_s"]), ""),
        ("requests/s", _rate(row["requests_per_s"]), ""),
        ("prompt tokens not begun", row.get("pending_tokens"), ""),
        ("answers", row.get("answers"), ""),
        ("GPU", row["gpu_names"], ""),
        ("log", row.get("log_file"), ""),
    ]
    return row["name"], facts


def _request(row: Row) -> tuple[str, Sequence[Fact]]:
    about = "about " if row["tokens_estimated"] else ""
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["arrived_ms"] / 1000))
    facts: list[Fact] = [
        ("status", outcome(row), outcome_style(row)),
        ("arrived", began, ""),
        ("route", row["route"], ""),
        ("model", row["model"], ""),
        ("key", row["tenant"], ""),
        ("priority", row["priority"], ""),
        ("engine", row["instance"], ""),
        ("why", row["why"], ""),
        ("waited", _ms(row["queue_ms"]), ""),
        ("TTFT", _ms(row["ttft_ms"]), ""),
        ("took", _ms(row["age_ms"]), ""),
        ("prompt tokens", f"{about}{count(row['prompt_tokens'])}", ""),
        ("cached tokens", row["cached_tokens"], ""),
        ("answer tokens", row["completion_tokens"], ""),
        ("tokens/s", _rate(row["tokens_per_s"]), ""),
    ]
    return f"request {row['request_id']}", facts


def _queue(row: Row) -> tuple[str, Sequence[Fact]]:
    return f"{row['by']} {row['name']}", [
        ("requests", row["requests"], ""),
        ("share", f"{row['share']:.0%}", ""),
    ]


def _ms(value: float | None) -> str | None:
    return None if value is None else duration(value / 1000)


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:,.4g}"
