"""The state of the gateway as lines for a terminal or a file, and the warnings about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from sage_inference.cli import columns, enginetext, sourcetext, statusrows
from sage_inference.visible import visible

_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "asleep": "yellow",
    "draining": "yellow",
    "ejected": "red",
}
_OF_STATES = {"stopped": None, "starting": "yellow", "stopping": "yellow"}


@dataclass(slots=True)
class StatusText:
    """``lines`` are safe to print. Those of words are wrapped to ``width``, which is None without a terminal."""

    width: int | None
    lines: list[str] = field(default_factory=list)
    warnings: list[tuple[str, str | None]] = field(default_factory=list)
    left_out: str | None = None  # a remark about columns that have no room

    def say(self, text: str, style: str | None = None) -> None:
        for line in _wrapped(visible(text), self.width):
            self.lines.append(typer.style(line, fg=style) if style else line)


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    indent = "  " if width > 8 else ""
    return textwrap.wrap(text, max(width, 1), subsequent_indent=indent, break_on_hyphens=False) or [text]


def describe(state: Any, width: int | None, state_dir: Path | None = None) -> StatusText:
    """The text for ``state``, a ``DaemonState``. With ``state_dir`` it names engines that outlived their gateway."""
    text = StatusText(width)
    if state.live is None:
        who = f" (pid {state.pid})" if state.pid else ""
        why = f": {state.reason}" if state.reason else ""
        word = "not running" if state.state == "stopped" else state.state
        text.say(f"{word}{who}{why}", _OF_STATES.get(state.state, "red"))
        if state_dir is not None:
            _add_kept(text, state_dir)
        return text
    _add_summary(text, state.live)
    if state.live["instances"]:
        _add_instances(text, state.live["instances"])
    _add_managed(text, state.live.get("engines") or [])
    text.warnings += [(warning, None) for warning in state.live.get("warnings", ())]  # of an older gateway
    return text


def _add_summary(text: StatusText, live: dict[str, Any]) -> None:
    instances, managed = live["instances"], live.get("engines") or []
    ready = sum(each["state"] == "ready" for each in instances)
    coming = [each for each in managed if each["state"] in ("waiting", "starting")]
    missing = len(instances) - ready + len(coming)
    colour = "green" if ready and not missing else "yellow" if ready or coming or not instances else "red"
    # Not "running" alone: a gateway without engines answers every request with an error.
    none = "no engine is ready yet" if coming else "no engine is ready"
    but = "" if ready else f", but {none}" if instances or managed else ", without engines"
    text.say(
        f"{live['state']} at {live['address']}{but} (pid {live['pid']}, up {enginetext.span(live['uptime_s'])})",
        colour,
    )
    if instances:
        text.say(f"engines: {statusrows.summary(instances)}")
    for source in live.get("sources") or ():  # an older gateway has none
        text.say(sourcetext.line(source), sourcetext.COLOURS[source["state"]])
        text.warnings += [(remark, None) for remark in sourcetext.remarks(source)]
    requests = live["requests"]
    text.say(
        f"requests: {requests['in_flight']:,} in flight, {requests['queued']:,} waiting, {requests['total']:,} done; "
        f"policy {live['policy']}"
    )
    for line in statusrows.slos(live.get("slos", ())):  # an older gateway may still run
        text.say(line)
    merged = live["embeddings"]
    if merged["calls"]:
        text.say(
            f"embeddings: {merged['texts']:,} texts of {merged['requests']:,} requests in {merged['calls']:,} calls, "
            f"{merged['texts_per_call']:.3g} texts a call"
        )
    if tracing := live.get("tracing"):
        why = f" ({tracing['problem']})" if tracing["problem"] else ""
        text.say(
            f"traces: to {tracing['endpoint']}, {tracing['sent']:,} spans sent, {tracing['dropped']:,} dropped{why}"
        )
    if live["simulated"]:
        text.say("engines marked (simulated) are no real ones")


def _add_instances(text: StatusText, instances: Sequence[dict[str, Any]]) -> None:
    rows = statusrows.rows(instances)
    cells = statusrows.columns_of(rows)
    if text.width is not None:
        cells = [column for column in cells if not column.is_empty]
    made, text.left_out = columns.render(cells, text.width, [_COLOURS.get(row.state) for row in rows])
    text.lines += ["", *made.split("\n")]
    for line in statusrows.errors(instances):
        text.say(line)


def _add_kept(text: StatusText, state_dir: Path) -> None:
    """The engines that outlived their gateway."""
    from sage_inference.cli.program import as_called
    from sage_inference.daemon.managed import kept

    found = [enginetext.called(each) for each in kept(state_dir)]
    if found:
        shows = as_called("sage inference ps shows them")
        text.say(f"engines run on without it: {', '.join(found)}; {shows}")


def _add_managed(text: StatusText, engines: Sequence[dict[str, Any]]) -> None:
    """A line for each engine of the gateway that is not among the instances, because it is not ready."""
    absent = [each for each in engines if each["state"] not in ("ready", "draining")]
    if absent:
        text.lines.append("")
    for each in absent:
        parts = [enginetext.state(each), each.get("detail") or ""]
        if each["state"] == "starting":
            parts.append(enginetext.taken(each))
        words = f"{enginetext.called(each)}: {', '.join(part for part in parts if part)}"
        text.say(words, enginetext.COLOURS.get(each["state"]))
    text.warnings += enginetext.remarks(engines)
