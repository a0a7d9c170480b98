"""``logs``: the gateway's log, as text or as JSON."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import log_levels
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.loglines import record
from sage_inference.cli.options import OUTPUT, NoColor, check_choice
from sage_inference.log_files.reader import Fits, Log

app = plain_app()
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


@app.command(cls=PlainCommand)
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Last lines to show.")
    ] = 100,
    level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Least severe level to show.", autocompletion=log_levels),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, schema 1.", rich_help_panel=OUTPUT)
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Show the gateway's log.

    \b
    Examples:
      sage inference logs -n 20
      sage inference logs --follow --level warning
    """
    from sage_inference.config.paths import Paths

    fits = _at_least(level)
    path = Paths.resolve().log_file
    show = _show_json if as_json else _show
    with Log(path) as log:
        found = log.last(lines, fits)
        if not found and not path.exists():
            terminal.talk(f"nothing is logged yet in {path}")
        for line in found:
            show(record(line))
        if follow:
            for line in log.follow(fits, _pause):
                show(record(line))


def _pause(seconds: float) -> None:
    """Sleep, but end if the reader of our output has left (`| head`): more lines would reach nobody."""
    import select

    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no file: output of a test, or closed
        time.sleep(seconds)
        return
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def _at_least(level: str | None) -> Fits:
    if level is None:
        return lambda line: True
    from sage_inference.config.settings import LOG_LEVELS

    check_choice("level", level, LOG_LEVELS)
    wanted = {*LOG_LEVELS[LOG_LEVELS.index(level) :], "critical"}
    # str(), because the level of a foreign line may be of any type.
    return lambda line: str(record(line).get("level")) in wanted


def _show_json(document: dict[str, Any]) -> None:
    terminal.say_json({"schema": 1, **document})


def _show(document: dict[str, Any]) -> None:
    """One line, and a traceback's lines below it. No value can forge a line or steer the terminal."""
    level = str(document.get("level") or "")
    moment = str(document.get("time") or "")[:19].replace("T", " ")
    words = [part for part in (moment, level, str(document.get("message", ""))) if part]
    terminal.say(" ".join(words), style=_COLOURS.get(level))
    trace = document.get("exception")
    for line in str(trace).split("\n") if trace else ():
        terminal.say(f"  {line}")
