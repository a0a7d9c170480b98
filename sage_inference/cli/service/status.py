"""``service status``: the service as systemd sees it."""

from __future__ import annotations

from typing import Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor
from sage_inference.cli.service.options import System, manager_of, plan_of

app = plain_app()
_COLOURS = {"active": "green", "failed": "red"}


@app.command(cls=PlainCommand)
def status(system: System = False, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show the service as systemd sees it.

    Whether the gateway itself answers is shown by sage inference status.

    \b
    Exit codes: 0 active, 1 failed, 3 not installed or not running, 4 systemd does not answer.
    """
    from sage_inference.daemon.service.state import describe

    plan = plan_of(system, user="root" if system else None)
    document = describe(plan, manager_of(plan, None))
    if as_json:
        terminal.say_json({"schema": 1, **document})
    else:
        _show(document)
    raise typer.Exit(_exit_code(document))


def _exit_code(document: dict[str, Any]) -> ExitCode:
    if not document["installed"]:
        return ExitCode.NOT_RUNNING
    codes = {
        "active": ExitCode.DONE,
        "reloading": ExitCode.DONE,
        "activating": ExitCode.DONE,
        "failed": ExitCode.FAILED,
        None: ExitCode.UNKNOWN,
    }
    return codes.get(document["active"], ExitCode.NOT_RUNNING)


def _show(document: dict[str, Any]) -> None:
    if not document["installed"]:
        terminal.say("the service is not installed; sage inference service install does that")
        return
    state = document["active"] or "unknown: systemd does not answer"
    pid = f" (pid {document['pid']})" if document["pid"] else ""
    failed = f": {document['result']}" if document["active"] == "failed" else ""
    terminal.say(f"{state}{pid}{failed}", style=_COLOURS.get(state, "yellow"))
    terminal.say(f"unit: {document['unit_path']}")
    for path in document["drop_ins"]:
        terminal.say(f"drop-in: {path}")
    starts = "with each boot" if document["system"] or document["linger"] else "with each login"
    terminal.say(f"starts: {starts if document['enabled'] else 'only by hand'}")
    if document["restarts"]:
        terminal.say(f"restarts after a crash: {document['restarts']}")
    terminal.say(f"variables: {document['environment_file']}")
    again = "sage inference service install writes it again"
    if document["edited"]:
        terminal.warn("the unit was edited by hand", f"{again} with --force")
    elif document["current"] is False:
        terminal.warn("the unit is that of another version or of other settings", again)
    if document["linger"] is False:
        terminal.warn("the service ends when you log out", "loginctl enable-linger keeps it")
