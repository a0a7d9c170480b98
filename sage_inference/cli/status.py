"""``status``: whether the gateway runs, and the state of its engines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.errors import from_exception
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import plain_app
from sage_inference.cli.options import Json, NoColor
from sage_inference.cli.program import as_called
from sage_inference.cli.statustext import describe
from sage_inference.cli.watch import Frame, WatchedCommand, interval, watch

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.control import DaemonState

app = plain_app()


@app.command(cls=WatchedCommand)
def status(
    context: typer.Context,
    seconds: Annotated[
        str | None,
        typer.Argument(
            metavar="[SECONDS]", help="With --watch: the time between two looks [2].", show_default=False
        ),
    ] = None,
    watches: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again, until q or Ctrl-C.")
    ] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show whether the gateway runs, and its engines.

    TTFT is the mean time from sending a stream to its first byte, of the last ten seconds with streams. Other answers
    come in one piece and have none.

    With --watch a terminal is redrawn in place, and a pipe gets one state below the other. With --json, each state is
    a line.

    \b
    Exit codes: 0 running, 1 dead with its lock or pidfile left, 3 not running, 4 it does not answer.
    With --watch: 0 when it is ended.
    """
    every_s = interval(seconds, watches=watches)
    if watches:
        watch(_frame_of(as_json), every_s, context.color, in_place=not as_json)
        return
    state, paths = _look()
    if as_json:
        terminal.say_json(document(state))
    else:
        _show(state, paths.state_dir)
    raise typer.Exit(state.exit_code)


def _look() -> tuple[DaemonState, Paths]:
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    try:
        paths = Paths.resolve()
        return control.inspect(paths), paths
    except Exception as error:
        # Exit 1 would mean a gateway that died and left its files.
        failure = from_exception(error)
        failure.exit_code = ExitCode.UNKNOWN
        raise failure from None


def _frame_of(as_json: bool) -> Frame:
    """The state of now, at each call."""

    def frame(width: int | None) -> list[str]:
        state, paths = _look()
        if as_json:
            return [terminal.json_text(document(state))]
        text = describe(state, width, paths.state_dir)
        for warning, hint in text.warnings:
            text.say(f"warning: {warning}", "yellow")
            if hint:
                text.say(f"hint: {as_called(hint)}")
        return [time.strftime("%Y-%m-%d %H:%M:%S"), *text.lines]

    return frame


def document(state: Any) -> dict[str, Any]:
    """The status for a script: the gateway's own document, overridden by the facts known from outside."""
    live = state.live or {}
    info = state.info
    return {
        "schema": 1,
        "version": None,
        "uptime_s": None,
        "address": None,
        "certificate": None,
        "needs_key": None,
        "discover": None,
        "policy": None,
        "simulated": None,
        "requests": None,
        "slos": None,
        "embeddings": None,
        "usage": None,
        "tracing": None,
        "instances": None,
        "engines": None,
        "sources": None,
        "warnings": None,
        **live,
        "state": live.get("state", state.state) if state.state == "running" else state.state,
        "pid": state.pid,
        "reason": state.reason,
        "config_path": info.config_path if info else None,
        "log_path": info.log_path if info else None,
    }


def _show(state: Any, state_dir: Path | None = None) -> None:
    text = describe(state, table.width_of_terminal(), state_dir)
    for line in text.lines:
        terminal.say_made(line)
    for warning, hint in text.warnings:
        terminal.warn(warning, hint)
    if text.left_out is not None:
        terminal.talk(text.left_out)
