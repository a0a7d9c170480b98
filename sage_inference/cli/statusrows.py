"""The instances of ``status`` as rows; many instances share a row if they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sage_inference.cli.columns import Column
from sage_inference.cli.numbers import duration

_RANKS = (0, 4, 5, 0, 2, 3, 1, 6)
_NODE = "NODE"  # a column that is there only if sources name nodes
HEADERS = ("NAME", "KIND", "ENGINE", "STATE", "IN FLIGHT", "TTFT", "MODELS", _NODE)
MOST_ROWS = 16  # with more instances, those that are alike share a row
MOST_ERRORS = MOST_SLOS = 8


@dataclass(frozen=True, slots=True)
class StatusRow:
    state: str
    cells: list[str]


def summary(instances: Sequence[dict[str, Any]]) -> str:
    """``38 of 40 ready, 2 ejected``, and their load."""
    counts: dict[str, int] = {}
    for each in instances:
        counts[each["state"]] = counts.get(each["state"], 0) + 1
    parts = [f"{counts.pop('ready', 0)} of {len(instances)} ready"]
    parts += [f"{number} {state}" for state, number in sorted(counts.items())]
    busy = sum(each["in_flight"] for each in instances)
    return ", ".join(parts) + (f"; {busy} in flight" if busy else "")


def rows(instances: Sequence[dict[str, Any]]) -> list[StatusRow]:
    """A row for each instance, or for those of one kind, engine, state and models."""
    if len(instances) <= MOST_ROWS:
        return [_row([each]) for each in instances]
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in instances:
        key = each["kind"], each["engine"], each["state"], each["simulated"], tuple(each["models"])
        alike.setdefault(key, []).append(each)
    return [_row(group) for group in alike.values()]


def columns_of(rows: Sequence[StatusRow]) -> list[Column]:
    """The columns of the table, and which of them a narrow terminal leaves out first."""
    cells = zip(*(row.cells for row in rows), strict=True)
    columns = [
        Column(header, list(column), rank)
        for header, column, rank in zip(HEADERS, cells, _RANKS, strict=True)
    ]
    return [column for column in columns if column.header != _NODE or not column.is_empty]


def errors(instances: Sequence[dict[str, Any]]) -> list[str]:
    """Why instances are not ready, one a line."""
    found = [f"{each['name']}: {each['last_error']}" for each in instances if each["last_error"]]
    if len(instances) > MOST_ROWS and len(found) > MOST_ERRORS:
        return [*found[:MOST_ERRORS], f"and {len(found) - MOST_ERRORS} more; --json has them all"]
    return found


def slos(found: Sequence[dict[str, Any]]) -> list[str]:
    """The SLOs that are not the usual ones, a line for each group of models and priorities with the same times."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for each in found:
        models = None if each["models"] is None else tuple(each["models"])
        alike.setdefault((models, each["ttft_ms"], each["tpot_ms"]), []).append(each["priority"])
    rest = "all models" if all(each["models"] is None for each in found) else "other models"
    lines = [
        f"SLO of {_models(models, rest)} at {', '.join(priorities)} priority: first token in {ttft_ms:,g} ms, "
        f"{tpot_ms:g} ms a token after it"
        for (models, ttft_ms, tpot_ms), priorities in alike.items()
    ]
    if len(lines) > MOST_SLOS:
        return [*lines[:MOST_SLOS], f"and {len(lines) - MOST_SLOS} more SLOs; --json has them all"]
    return lines


def _models(models: Sequence[str] | None, rest: str) -> str:
    if models is None:
        return rest
    return models[0] if len(models) == 1 else f"{models[0]} and {len(models) - 1} more"


def _nodes(group: Sequence[dict[str, Any]]) -> str:
    """The node of the instances, or the number of their nodes."""
    found = {node for each in group if (node := each.get("node"))}  # an older gateway names none
    return f"{len(found)} nodes" if len(found) > 1 else next(iter(found), "-")


def _row(group: Sequence[dict[str, Any]]) -> StatusRow:
    first = group[0]
    name = first["name"] + (" (simulated)" if first["simulated"] else "")
    if len(group) > 1:
        name = f"{name} and {len(group) - 1} more"
    times = sorted(each["ttft_ms"] for each in group if each["ttft_ms"] is not None)
    return StatusRow(
        first["state"],
        [
            name,
            first["kind"] or "-",
            first["engine"] or "-",
            first["state"],
            str(sum(each["in_flight"] for each in group)),
            duration(times[len(times) // 2] / 1000) if times else "-",
            ", ".join(first["models"]) or "-",
            _nodes(group),
        ],
    )
