"""``models``: the models that the gateway serves or can load."""

from __future__ import annotations

from typing import Any

from sage_inference.cli import enginetext, table, terminal
from sage_inference.cli.columns import Column, render
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()
_COLOURS = {"asleep": "yellow", "ejected": "red", **enginetext.COLOURS}


@app.command(cls=PlainCommand)
def models(as_json: Json = False, no_color: NoColor = False) -> None:
    """Show the models that the gateway serves or can load.

    READY counts the instances of a model that take requests. CONTEXT is the most tokens of prompt and answer together.
    ENGINE is the engine that the gateway starts for it, as in ps.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control
    from sage_inference.daemon.models import models as listed

    document = listed(control.running(Paths.resolve()))
    if as_json:
        terminal.say_json(document)
        return
    found = document["models"]
    if not found:
        terminal.say("no models are served")
        terminal.talk("sage inference load MODEL starts an engine; sage inference status shows engines")
        return
    text, remark = render(
        _columns(found), table.width_of_terminal(), [_COLOURS.get(model["state"]) for model in found]
    )
    terminal.say_made(text)
    if remark is not None:
        terminal.talk(remark)


def _columns(models: list[dict[str, Any]]) -> list[Column]:
    made = [
        Column("NAME", [_name(model) for model in models], 0),
        Column("KIND", [model["kind"] or "-" for model in models], 1),
        Column("STATE", [model["state"] for model in models], 0),
        Column("READY", [f"{model['ready']} of {model['instances']}" for model in models], 2),
        Column("CONTEXT", [_tokens(model["context_tokens"]) for model in models], 4),
        Column("ALIASES", [", ".join(model["aliases"]) or "-" for model in models], 3),
        Column("ENGINE", [", ".join(model["engines"]) or "-" for model in models], 5),
    ]
    return [column for column in made if not column.is_empty]


def _name(model: dict[str, Any]) -> str:
    return f"{model['name']} (simulated)" if model["simulated"] else str(model["name"])


def _tokens(count: int | None) -> str:
    return f"{count:,}" if count else "-"
