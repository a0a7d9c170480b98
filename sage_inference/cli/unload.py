"""``unload``: stop an engine and free its memory."""

from __future__ import annotations

from typing import Any

from sage_inference.cli import terminal
from sage_inference.cli.enginewait import EngineName, NoWait
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()
_OVER = ("off", "stuck", "lost")


@app.command(cls=PlainCommand)
def unload(
    name: EngineName, no_wait: NoWait = False, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Stop an engine and free its memory.

    Its running requests are finished first. It stays stopped until sage inference load, or the next start of the
    gateway.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control, managed

    paths = Paths.resolve()
    info = control.running(paths)
    engine = managed.order(info, managed.find_or_fail(managed.current(info), name)["name"], "unload")
    if not no_wait and engine["state"] not in _OVER:
        with terminal.WaitIndicator(f"waiting for {engine['name']} to end") as waiting:

            def seen(engines: list[dict[str, Any]]) -> None:
                busy = sum(each.get("in_flight") or 0 for each in engines)
                what = f"to finish {busy} {'request' if busy == 1 else 'requests'}" if busy else "to end"
                waiting.update(f"waiting for {engine['name']} {what}")

            [engine] = managed.watch(paths, [engine["name"]], lambda each: each["state"] in _OVER, seen)
        if engine["state"] != "off":
            raise managed.failure_of(engine)
    if as_json:
        terminal.say_json({"schema": 1, "engine": engine})
    else:
        ending = no_wait and engine["state"] != "off"
        until = f"until sage inference load {engine['name']}, or the next start of the gateway"
        terminal.say(f"{engine['name']} is {'ending' if ending else 'unloaded'}, {until}")
