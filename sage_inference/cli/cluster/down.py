"""``cluster down``: end engines."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.cluster.named import model_names
from sage_inference.cli.cluster.options import (
    APPLICATION,
    HEAD,
    PYTHON,
    Application,
    Head,
    Python,
    Token,
    check_application,
    dashboard_of,
)
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def down(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="As cluster status shows them [all of the application].",
            autocompletion=model_names,
            show_default=False,
        ),
    ] = None,
    head: Head = HEAD,
    token: Token = None,
    application: Application = APPLICATION,
    python: Python = PYTHON,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """End engines, of all models or of some.

    Requests that they have end first, within 30 s, and the command waits for that. Other applications of the cluster
    stay.

    \b
    Examples:
      sage inference cluster down
      sage inference cluster down bge-m3
    """
    from sage_inference.cli.cluster.applications import look
    from sage_inference.cli.cluster.jobs import patiently, run_job
    from sage_inference.cli.cluster.named import named

    dashboard = dashboard_of(head, token)
    view = look(dashboard, check_application(application))
    ours = named(view.models, models, application) if models else list(view.models)
    if ours:
        names = [model.application for model in ours]
        with terminal.WaitIndicator(f"ending {', '.join(model.name for model in ours)}"):
            run_job(dashboard, python, ["down", *names])
            gone = set(names).isdisjoint
            patiently(
                lambda: look(dashboard, application),
                lambda view: gone(model.application for model in view.models),
            )
    if as_json:
        terminal.say_json({"schema": 1, "ended": [model.name for model in ours]})
    else:
        terminal.say(
            f"ended {', '.join(model.name for model in ours)}" if ours else "there was nothing to end"
        )
