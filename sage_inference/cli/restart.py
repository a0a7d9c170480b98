"""``restart``: put a new gateway in the place of the running one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

if TYPE_CHECKING:
    from sage_inference.daemon.control import DaemonState
    from sage_inference.daemon.end_report import EndReport

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
    adopts them. The old one finishes its running requests, within timeouts.drain_s; the command reports how many it
    finished, and how many it cut off.
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
    else:
        _say_ends(restarted.ends, requests)
    if engines:
        from sage_inference.cli.engine.restart import restart_all

        restart_all(paths)


def _say_ends(ends: EndReport | None, requests: int) -> None:
    """Say what became of the old gateway's last requests. Without a report, ``requests`` ran before the restart."""
    if ends is None:
        if requests:
            terminal.warn(
                f"what became of {_counted(requests, 0)} is not known", "the gateway's log may show it"
            )
        return
    what = _counted(ends.total, ends.streams)
    if ends.failed:
        streams = f", of them streams: {ends.failed_streams}" if ends.failed_streams else ""
        terminal.warn(
            f"of {what}, the old gateway finished {ends.finished}; failed or cut off: {ends.failed}{streams}",
            "a gateway that ends waits timeouts.drain_s seconds for its requests",
        )
    elif ends.finished:
        left = f"; callers that left: {ends.left}" if ends.left else ""
        terminal.say(f"the old gateway finished {what}{left}")


def _counted(requests: int, streams: int) -> str:
    if requests == 1:
        return f"the {'stream' if streams else 'request'} that was running"
    if requests == streams:
        return f"the {streams} streams that were running"
    return f"the {requests} requests that were running" + (f" (streams: {streams})" if streams else "")
