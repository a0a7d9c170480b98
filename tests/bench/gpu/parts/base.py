"""A part of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.gpu.options import Options
from tests.bench.gpu.run import Row, Run


@dataclass(frozen=True, slots=True)
class Part:
    """``needs``: engines that must be healthy. Without them the whole run ``stops``, or this part is left out.

    ``cap_s``: the most that it takes in one call.

    ``table``: Markdown of the rows whose key begins with the part's name.
    """

    name: str
    help: str
    play: Callable[[Run, Options], None]
    table: Callable[[Sequence[Row]], list[str]]
    needs: tuple[str, ...] = ()
    cap_s: float = 600.0
    stops: bool = True
    defaults: Mapping[str, str] = field(default_factory=dict)


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(map(shown, line))} |" for line in lines),
    ]


def shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/")


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def in_turns(names: Sequence[str], turn: int) -> list[str]:
    """Each round begins with another one, so that none always comes after the same."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def failed(rows: Iterable[Row]) -> list[str]:
    return [f"- `{row['key']}` failed: {row['error']}" for row in rows if "error" in row]
