"""``restart``: stop the gateway and start it again as it was started."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def restart(
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key again, where it was given as itself.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill it once the drain time is over.")] = False,
    no_color: NoColor = False,
) -> None:
    """Stop the gateway and start it again.

    It keeps the configuration file and the options that the running gateway was started with.
    """
    from sage_inference.cli.start import announce
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    with terminal.Waiting("waiting for running requests, and for the new gateway"):
        started = control.restart(Paths.resolve(), api_key=api_key, force=force)
    announce(started.status, started.log_file)
