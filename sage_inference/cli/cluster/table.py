"""The models of a cluster, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sage_inference.cli import table, terminal
from sage_inference.cli.columns import Column, render

if TYPE_CHECKING:
    from sage_inference.cli.cluster.applications import ServedModel, ServeView
    from sage_inference.cli.cluster.dashboard import Dashboard

_COLOURS = {"RUNNING": "green", "DEPLOY_FAILED": "red", "UNHEALTHY": "red"}


def answer(dashboard: Dashboard, application: str, view: ServeView) -> dict[str, Any]:
    return {
        "schema": 1,
        "head": dashboard.url,
        "application": application,
        "models": [model.document() for model in view.models],
    }


def show(view: ServeView) -> None:
    models = view.models
    columns = [
        Column("MODEL", [model.name for model in models], 0),
        Column("STATE", [model.state for model in models], 1),
        Column("READY", [f"{model.running} of {model.wanted}" for model in models], 1),
        Column("NODES", [_nodes(model) or "-" for model in models], 4),
    ]
    text, remark = render(
        columns, table.width_of_terminal(), [_COLOURS.get(m.state, "yellow") for m in models]
    )
    terminal.say_made(text)
    if remark is not None:
        terminal.talk(remark)


def _nodes(model: ServedModel) -> str:
    """``10.0.0.2 (3), 10.0.0.3``: the machines of its replicas, and how many each has."""
    counted = Counter(replica.node for replica in model.replicas if replica.node)
    return ", ".join(node if count == 1 else f"{node} ({count})" for node, count in sorted(counted.items()))
