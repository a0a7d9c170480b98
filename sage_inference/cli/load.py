"""``load``: start an engine, or one for a model that no engine has yet."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from sage_inference.cli.complete import engines as names_of_engines
from sage_inference.cli.enginewait import NoWait, as_model, report, until
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def load(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="An engine, or a model.", autocompletion=names_of_engines, show_default=False
        ),
    ],
    no_wait: NoWait = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Start an engine, and wait until it serves.

    NAME is an engine of ps. A model that no engine has (a name of the hub, or a directory) gets an engine until the
    gateway stops. An engine that is ready already stays as it is.

    \b
    Examples:
      sage inference load bge-m3
      sage inference load Qwen/Qwen2.5-7B-Instruct --no-wait
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control, managed

    paths = Paths.resolve()
    info = control.running(paths)
    began = time.monotonic()
    engine = _ordered(info, name)
    if not no_wait:
        [engine] = until(paths, [engine], managed.settled(began))
    report(
        engine,
        "is loading" if engine["state"] != "ready" else "is ready",
        as_json=as_json,
        waited=not no_wait,
    )


def _ordered(info: Any, name: str) -> dict[str, Any]:
    from sage_inference.daemon import managed

    if not name.strip():
        raise usage("the name of the engine or model is empty", "sage inference ps shows the engines")
    engines = managed.current(info)
    model = as_model(name)
    found = managed.find(engines, name) or managed.find(engines, model)
    if found is not None:
        return managed.order(info, found["name"], "load")
    if "/" not in model:
        # A misspelled name must not become a download.
        managed.refuse_near_miss(name, engines)
    return managed.add(info, model)
