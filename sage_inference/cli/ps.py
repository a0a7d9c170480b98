"""``ps``: the engines that the gateway started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from sage_inference.cli import columns, enginetext, table, terminal
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

if TYPE_CHECKING:
    from sage_inference.daemon.managed import EngineListing

app = plain_app()


@app.command(cls=PlainCommand)
def ps(as_json: Json = False, no_color: NoColor = False) -> None:
    """Show the engines that the gateway started.

    Engines that you started yourself are in sage inference status.

    \b
    Exit codes: 0 the gateway runs, 1 dead with its lock or pidfile left, 3 not running, 4 it does not answer.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.managed import listing

    found = listing(Paths.resolve())
    if as_json:
        terminal.say_json({"schema": 1, "gateway": found.state.state, "engines": found.engines})
    else:
        _show(found)
    raise typer.Exit(found.state.exit_code)


def _show(found: EngineListing) -> None:
    if found.engines:
        show_table(found.engines)
    elif found.is_watched:
        terminal.say("no engines were started")
        terminal.talk("sage inference load MODEL starts one; sage inference status shows engines of your own")
    if found.is_watched:
        return
    state = found.state
    if not found.engines:
        terminal.say("not running" if state.state == "stopped" else str(state.reason))
    elif state.exit_code == ExitCode.UNKNOWN:
        terminal.warn(f"{state.reason}; the engines run on")
    else:
        gone = (
            f"the gateway (pid {state.pid}) died" if state.state == "dead" else "the gateway is not running"
        )
        terminal.warn(
            f"{gone}; its engines run on for some minutes, and end unless one starts",
            "sage inference start --background adopts them, sage inference stop ends them",
        )


def show_table(engines: list[dict[str, Any]]) -> None:
    """The engines as a table that fits the terminal, and below it the remarks about them."""
    text, left_out = columns.render(
        enginetext.columns(engines),
        table.width_of_terminal(),
        [enginetext.COLOURS.get(each["state"]) for each in engines],
    )
    terminal.say_made(text)
    for remark, hint in enginetext.remarks(engines):
        terminal.warn(remark, hint)
    if left_out is not None:
        terminal.talk(left_out)
