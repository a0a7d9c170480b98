"""Models of the cluster by the names that a person types, and completions of them."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from sage_inference.cli.cluster.applications import ServedModel, look
from sage_inference.cli.cluster.options import APPLICATION, HEAD, dashboard_of
from sage_inference.cli.errors import Failure


def named(models: Sequence[ServedModel], names: Sequence[str], application: str) -> list[ServedModel]:
    """The models with these names, in their order. Raises ``Failure`` with those that there are."""
    by_name = {model.name: model for model in models} | {model.application: model for model in models}
    for name in names:
        if name not in by_name:
            there = ", ".join(model.name for model in models)
            raise Failure(
                f'Ray runs no model "{name}" of {application}',
                f"one of {there}" if there else "sage inference cluster up FILE starts models",
                "unknown_model",
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """The models of the cluster that the options name so far."""
    given = context.params
    view = look(
        dashboard_of(given.get("head") or HEAD, given.get("token")),
        given.get("application") or APPLICATION,
    )
    return [model.name for model in view.models if model.name.startswith(incomplete)]
