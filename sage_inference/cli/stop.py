"""``stop``: end the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def stop(
    force: Annotated[
        bool, typer.Option("--force", help="Kill it after the drain time; at once if it hangs.")
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Stop the gateway; finish running requests first."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    with terminal.WaitIndicator("waiting for the gateway to end", later=True) as waiting:

        def found(state: control.DaemonState) -> None:
            if state.requests:
                waiting.update("waiting for the gateway to finish its requests")

        outcome = control.stop(Paths.resolve(), force=force, on_found=found, on_progress=waiting.begin)
    said = {
        "stopped": f"stopped (pid {outcome.pid})",
        "killed": f"killed (pid {outcome.pid})",
        "not_running": "not running",
        "cleaned": "not running; removed what a dead gateway had left",
    }
    terminal.say(said[outcome.result])
