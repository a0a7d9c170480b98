"""Usage, added up by key, model, user, instance, day or hour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from sage_inference.usage.columns import BY, HOUR_S, MEASURES, Labels, Row

Total = dict[str, Any]

_DAY = "%Y-%m-%d"
_BY: dict[str, Callable[[Labels], str]] = {
    "key": lambda labels: labels.key,
    "model": lambda labels: labels.model,
    "user": lambda labels: labels.user,
    "instance": lambda labels: labels.instance,
    "day": lambda labels: datetime.fromtimestamp(labels.hour * HOUR_S).strftime(_DAY),
    "hour": lambda labels: (
        datetime.fromtimestamp(labels.hour * HOUR_S).astimezone().isoformat(timespec="minutes")
    ),
}
_BY_TIME = ("day", "hour")
_SPAN = re.compile(r"(\d{1,6})\s*([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_TIMES = "a span like 24h, 7d or 4w, a day like 2026-11-30, or today"


class BadQuery(ValueError):  # noqa: N818 - as DaemonError's children
    """A parameter of a report has no meaning. The message is a sentence for the user."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def hour_of(text: str, now: datetime) -> int:
    """The hour that ``text`` names, a span, a day or ``today``. Days are those of this machine's clock. Raises ``BadQuery``.

    Usage is kept by the hour, so a span begins with the hour in which it begins.
    """
    word = text.strip().lower()
    try:
        if word == "today":
            begin = now.replace(hour=0, minute=0, second=0)
        elif span := _SPAN.fullmatch(word):
            begin = now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        else:
            begin = datetime.fromisoformat(text.strip())
        return int(begin.timestamp() // HOUR_S)
    except (ValueError, OverflowError, OSError):
        raise BadQuery("since", f"{text[:40]!r} is no time; use {_TIMES}") from None


def report(rows: Iterable[Row], by: str) -> tuple[list[Total], Total]:
    """The totals by one of ``BY``, and the total of all. Raises ``BadQuery``.

    Days and hours are in order. Other totals are ordered by tokens, most first.
    """
    if by not in BY:
        raise BadQuery("by", f"{by[:40]!r} is not one of {', '.join(BY)}")
    name_of = _BY[by]
    sums: dict[str, list[float]] = {}
    everything = [0.0] * len(MEASURES)
    for labels, measures in rows:
        found = sums.setdefault(name_of(labels), [0.0] * len(MEASURES))
        for at, value in enumerate(measures):
            found[at] += value
            everything[at] += value
    totals = [{by: name, **_total(measures)} for name, measures in sums.items()]
    if by in _BY_TIME:
        totals.sort(key=lambda total: total[by])
    else:
        totals.sort(key=lambda total: (-tokens_of(total), -total["requests"], total[by]))
    return totals, _total(everything)


def tokens_of(total: Total) -> int:
    """All tokens of prompts and answers, reported and estimated."""
    return sum(total[name] for name in MEASURES if name.endswith(("prompt_tokens", "completion_tokens")))


def _total(measures: Iterable[float]) -> Total:
    named = zip(MEASURES, measures, strict=True)
    return {name: round(value, 3) if name == "gpu_seconds" else int(value) for name, value in named}
