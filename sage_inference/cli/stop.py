"""``stop``: end the gateway and its engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

if TYPE_CHECKING:
    from sage_inference.daemon.control import DaemonState

app = plain_app()


@app.command(cls=PlainCommand)
def stop(
    keep_engines: Annotated[
        bool, typer.Option("--keep-engines", help="Leave the engines running, for the next start.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Kill it after the drain time; at once if it hangs.")
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Stop the gateway; finish running requests first.

    The engines that it started end with it. Where no gateway runs, engines that one left behind are ended.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import engine_stop
    from sage_inference.daemon.errors import StopFailed

    with terminal.WaitIndicator("waiting for the gateway to end", later=True) as waiting:

        def found(state: DaemonState) -> None:
            if state.requests:
                waiting.update("waiting for the gateway to finish its requests")

        stopped = engine_stop.stop(
            Paths.resolve(), force=force, keep_engines=keep_engines, on_found=found, on_progress=waiting.begin
        )
    outcome = stopped.gateway
    said = {
        "stopped": f"stopped (pid {outcome.pid})",
        "killed": f"killed (pid {outcome.pid})",
        "not_running": "not running",
        "cleaned": "not running; removed what a dead gateway had left",
    }
    terminal.say(said[outcome.result])
    if stopped.ended:
        terminal.say(f"ended its engines: {', '.join(stopped.ended)}")
    if stopped.left:
        problems = [f"engine {name} may still run: {reason}" for name, reason in stopped.left.items()]
        raise StopFailed("; ".join(problems), "sage inference ps shows it; end its process yourself")
    if stopped.kept:
        terminal.say(f"its engines run on: {', '.join(stopped.kept)}")
        terminal.talk(
            "they end by themselves if no gateway starts for some minutes: managed.orphan_timeout_s"
        )
