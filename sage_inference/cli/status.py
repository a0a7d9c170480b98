"""``status``: whether the gateway runs, and the state of its engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from sage_inference.cli import enginetext, statusrows, table, terminal
from sage_inference.cli.errors import from_exception
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()
_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "asleep": "yellow",
    "draining": "yellow",
    "ejected": "red",
}


@app.command(cls=PlainCommand)
def status(as_json: Json = False, no_color: NoColor = False) -> None:
    """Show whether the gateway runs, and its engines.

    TTFT is the mean time from sending a stream to its first byte, of the last ten seconds with streams. Other answers
    come in one piece and have none.

    \b
    Exit codes: 0 running, 1 dead with its lock or pidfile left, 3 not running, 4 it does not answer.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    try:
        paths = Paths.resolve()
        state = control.inspect(paths)
    except Exception as error:
        # Exit 1 would mean a gateway that died and left its files.
        failure = from_exception(error)
        failure.exit_code = ExitCode.UNKNOWN
        raise failure from None
    if as_json:
        terminal.say_json(document(state))
    else:
        _show(state, paths.state_dir)
    raise typer.Exit(state.exit_code)


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
        "instances": None,
        "engines": None,
        "warnings": None,
        **live,
        "state": live.get("state", state.state) if state.state == "running" else state.state,
        "pid": state.pid,
        "reason": state.reason,
        "config_path": info.config_path if info else None,
        "log_path": info.log_path if info else None,
    }


def _show(state: Any, state_dir: Path | None = None) -> None:
    live = state.live
    if live is None:
        who = f" (pid {state.pid})" if state.pid else ""
        why = f": {state.reason}" if state.reason else ""
        words = {"stopped": "not running", "dead": "dead"}
        colour = {"stopped": None, "starting": "yellow", "stopping": "yellow"}.get(state.state, "red")
        terminal.say(f"{words.get(state.state, state.state)}{who}{why}", style=colour)
        if state_dir is not None:
            _show_kept(state_dir)
        return
    instances = live["instances"]
    ready = sum(i["state"] == "ready" for i in instances)
    managed = live.get("engines") or []
    coming = [each for each in managed if each["state"] in ("waiting", "starting")]
    missing = len(instances) - ready + len(coming)
    colour = "green" if ready and not missing else "yellow" if ready or coming or not instances else "red"
    # Not "running" alone: a gateway without engines answers every request with an error.
    none = "no engine is ready yet" if coming else "no engine is ready"
    but = "" if ready else f", but {none}" if instances or managed else ", without engines"
    terminal.say(
        f"{live['state']} at {live['address']}{but} (pid {live['pid']}, up {enginetext.span(live['uptime_s'])})",
        style=colour,
    )
    if instances:
        terminal.say(f"engines: {statusrows.summary(instances)}")
    requests = live["requests"]
    terminal.say(
        f"requests: {requests['in_flight']} in flight, {requests['queued']} waiting, {requests['total']} done; "
        f"policy {live['policy']}"
    )
    for line in statusrows.slos(live.get("slos", ())):  # an older gateway may still run
        terminal.say(line)
    merged = live["embeddings"]
    if merged["calls"]:
        terminal.say(
            f"embeddings: {merged['texts']} texts of {merged['requests']} requests in {merged['calls']} calls, "
            f"{merged['texts_per_call']:g} texts a call"
        )
    if live["simulated"]:
        terminal.say("engines marked (simulated) are no real ones")
    if instances:
        _show_instances(instances)
    _show_managed(managed)
    for warning in live.get("warnings", ()):  # an older gateway may still run
        terminal.warn(warning)


def _show_instances(instances: list[dict[str, Any]]) -> None:
    terminal.say("")
    rows = statusrows.rows(instances)
    terminal.say_made(
        table.render(
            statusrows.HEADERS,
            [row.cells for row in rows],
            width=table.width_of_terminal(),
            styles=[_COLOURS.get(row.state) for row in rows],
            styled_column=3,
        )
    )
    for line in statusrows.errors(instances):
        terminal.say(line)


def _show_kept(state_dir: Path) -> None:
    """The engines that outlived their gateway."""
    from sage_inference.daemon.managed import kept

    found = [enginetext.called(each) for each in kept(state_dir)]
    if found:
        terminal.say(f"engines run on without it: {', '.join(found)}; sage inference ps shows them")


def _show_managed(engines: list[dict[str, Any]]) -> None:
    """A line for each engine of the gateway that is not among the instances, because it is not ready."""
    absent = [each for each in engines if each["state"] not in ("ready", "draining")]
    if absent:
        terminal.say("")
    for each in absent:
        parts = [enginetext.state(each), each.get("detail") or ""]
        if each["state"] == "starting":
            parts.append(enginetext.taken(each))
        text = f"{enginetext.called(each)}: {', '.join(part for part in parts if part)}"
        terminal.say(text, style=enginetext.COLOURS.get(each["state"]))
    for text, hint in enginetext.remarks(engines):
        terminal.warn(text, hint)
