"""``cluster status``: the models that Ray runs."""

from __future__ import annotations

import typer

from sage_inference.cli import terminal
from sage_inference.cli.cluster.options import (
    APPLICATION,
    HEAD,
    Application,
    Head,
    Token,
    check_application,
    dashboard_of,
)
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def status(
    head: Head = HEAD,
    token: Token = None,
    application: Application = APPLICATION,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show the models that Ray runs, and their machines.

    The exit code is 0 if all are up, 1 if one is not, 3 if there are none, and 4 if the dashboard does not answer.

    \b
    Examples:
      sage inference cluster status
      sage inference cluster status --head http://gpu1:8265 --json
    """
    from sage_inference.cli.cluster.applications import look
    from sage_inference.cli.cluster.dashboard import UnreachableError
    from sage_inference.cli.cluster.table import answer, show

    dashboard = dashboard_of(head, token)
    try:
        with terminal.WaitIndicator(f"asking {dashboard.url}"):
            view = look(dashboard, check_application(application))
    except UnreachableError as error:
        error.exit_code = ExitCode.UNKNOWN
        raise
    if as_json:
        terminal.say_json(answer(dashboard, application, view))
    elif view.models:
        show(view)
    else:
        terminal.say(f"Ray runs no models of {application}")
    for model in view.models:
        if model.problem is not None and not as_json:
            terminal.talk(model.problem)
    if not view.models:
        raise typer.Exit(ExitCode.NOT_RUNNING)
    if not all(model.is_up for model in view.models):
        raise typer.Exit(ExitCode.FAILED)
