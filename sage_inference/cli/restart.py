"""``restart``: put a new gateway in the place of the running one."""

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
def restart(
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key, if start was given the key itself.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Kill the old one after its drain time; at once if it hangs.")
    ] = False,
    engines: Annotated[
        bool, typer.Option("--engines", help="Restart the engines that it started, too.")
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Replace the running gateway by a new one.

    The new one keeps the configuration file and the options of the running one. When the new one is ready, it
    takes the running one's socket. If it cannot start, the running one stays. Engines go on, and the new gateway
    adopts them.
    """
    from sage_inference.cli.announce import announce
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.restart import restart as replace

    new = terminal.WaitIndicator("waiting for the new gateway", later=True)
    old = terminal.WaitIndicator("waiting for the old gateway to end", later=True)

    requests = 0

    def found(state: DaemonState) -> None:
        nonlocal requests
        requests = state.requests
        if state.requests:
            old.update("waiting for the old gateway to finish its requests")

    with terminal.OneAtATime() as wait:
        paths = Paths.resolve()
        restarted = replace(
            paths,
            api_key=api_key,
            force=force,
            on_found=found,
            on_progress=lambda _: wait.on(old),
            on_wait=lambda _: wait.on(new),
        )
    announce(restarted.started.status, restarted.started.log_file)
    if restarted.still_ending is not None:
        terminal.warn(
            f"the old gateway (pid {restarted.still_ending}) still finishes requests",
            f"kill {restarted.still_ending} ends it",
        )
    elif requests:
        what = "the request that was" if requests == 1 else f"the {requests} requests that were"
        terminal.say(f"the old gateway finished {what} running")
    if engines:
        from sage_inference.cli.engine.restart import restart_all

        restart_all(paths)
