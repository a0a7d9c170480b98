"""``engine restart``: stop an engine and start it with the settings of now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sage_inference.cli.enginewait import EngineName, NoWait, report, until
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

app = plain_app()
_UP = ("ready", "starting", "waiting", "draining")


@app.command(cls=PlainCommand)
def restart(
    name: EngineName, no_wait: NoWait = False, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Stop an engine and start it again.

    Its running requests are finished first, and requests that come meanwhile wait. The engine gets the settings
    that the gateway has now. An engine that is not loaded is started.
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control, managed

    paths = Paths.resolve()
    info = control.running(paths)
    before = managed.find_or_fail(managed.current(info), name)
    began = time.monotonic()
    engine = managed.order(info, before["name"], "restart")
    if not no_wait:
        [engine] = until(paths, [engine], restarted([before], began))
    report(engine, "is restarting", as_json=as_json, waited=not no_wait)


def restart_all(paths: Paths) -> None:
    """Restart each engine that is up or starting, and wait for them. Raises ``EngineFailed`` for the first that fails."""
    from sage_inference.daemon import control, managed

    info = control.running(paths)
    before = [each for each in managed.current(info) if each["state"] in _UP]
    began = time.monotonic()
    for each in before:
        managed.order(info, each["name"], "restart")
    for engine in until(paths, before, restarted(before, began)) if before else ():
        report(engine, "", as_json=False, waited=True)


def restarted(engines: list[dict[str, Any]], began: float) -> Any:
    """A test whether an engine of ``engines`` is ready with another process, or has failed, since ``began``."""
    from sage_inference.daemon.managed import settled

    pids = {each["name"]: each["pid"] for each in engines if each["state"] in ("ready", "draining")}
    has_settled = settled(began)

    def is_over(engine: dict[str, Any]) -> bool:
        is_old = engine["state"] == "ready" and pids.get(engine["name"], -1) == engine["pid"]
        return not is_old and bool(has_settled(engine))

    return is_over
