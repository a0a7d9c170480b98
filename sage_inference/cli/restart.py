"""``restart``: put a new gateway in the place of the running one."""

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
        str | None, typer.Option(metavar="KEY", help="The key, if start was given the key itself.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill it once the drain time is over.")] = False,
    no_color: NoColor = False,
) -> None:
    """Replace the running gateway by a new one.

    The new one keeps the configuration file and the options of the running one, and takes over its socket
    when it is ready. If it cannot start, the running one goes on.
    """
    from sage_inference.cli.start import announce
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.restart import restart as replace

    with terminal.Waiting("waiting for running requests, and for the new gateway", later=True) as waiting:
        restarted = replace(
            Paths.resolve(), api_key=api_key, force=force, on_progress=waiting.begin, on_wait=waiting.begin
        )
    announce(restarted.started.status, restarted.started.log_file)
    if restarted.still_ending is not None:
        terminal.warn(
            f"the old gateway (pid {restarted.still_ending}) still finishes requests",
            f"kill {restarted.still_ending} ends it",
        )
