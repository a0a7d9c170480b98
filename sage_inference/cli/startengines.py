"""The engines that ``start`` and ``restart`` bring up: their progress, and the wait for them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sage_inference.cli import enginetext, terminal
from sage_inference.cli.enginewait import say_ready

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

Document = dict[str, Any]
_LOOK_S = 0.2
_END_S = 3.0
_ON_THE_WAY = ("waiting", "starting", "stopping", "draining")


def on_the_way(engines: Sequence[Document]) -> list[Document]:
    """Those that start now, or again in a moment."""
    from sage_inference.daemon.managed import will_retry

    return [
        each
        for each in engines
        if each["state"] in _ON_THE_WAY or (each["state"] == "failed" and will_retry(each) is not None)
    ]


def engines_in(status: Document) -> list[Document]:
    from sage_inference.daemon.managed import engines_of

    return engines_of(status)


def announce_engines(engines: Sequence[Document]) -> None:
    """A line for each engine that is up or on its way. Failures are warnings."""
    for each in engines:
        if each["state"] == "ready":
            say_ready(each)
        elif each["state"] != "off" and not each.get("failure"):
            terminal.say(
                f"{enginetext.called(each)} is {enginetext.state(each)}; sage inference ps shows more"
            )
    for text, hint in enginetext.remarks([each for each in engines if not _is_down(each)]):
        terminal.warn(text, hint)


def wait_for(paths: Paths, engines: Sequence[Document]) -> Document | None:
    """Wait with progress until each of ``engines`` is ready or has failed for good. Returns the gateway's status then.

    Ctrl-C ends the gateway and its engines, because the command that was interrupted began them.
    """
    from sage_inference.cli.engineprogress import EngineProgress
    from sage_inference.daemon import control
    from sage_inference.daemon.managed import settled, watch

    began = time.monotonic()
    try:
        with EngineProgress() as progress:
            watch(paths, [each["name"] for each in engines], settled(began), progress.show)
    except KeyboardInterrupt:
        from sage_inference.daemon import engine_stop

        terminal.talk("interrupted: ending the gateway and its engines")
        engine_stop.stop(paths)
        raise
    return control.inspect(paths).live


def fail_if_any_failed(engines: Sequence[Document]) -> None:
    """Raise ``EngineFailed`` for the first engine that does not become ready, and warn of the others."""
    from sage_inference.daemon.managed import failure_of

    failed = [failure_of(each) for each in engines if _is_down(each)]
    for error in failed[1:]:
        terminal.warn(error.problem, error.hint)
    if failed:
        terminal.talk(
            "the gateway runs on without it" if len(failed) == 1 else "the gateway runs on without them"
        )
        raise failed[0]


def _is_down(engine: Document) -> bool:
    return engine["state"] in ("failed", "stuck", "lost") and not on_the_way([engine])


class ProgressHere:
    """The progress of the engines of a gateway in the foreground, whose log goes to the same terminal."""

    def __init__(self, paths: Paths) -> None:
        from sage_inference.cli.engineprogress import AboveProgress

        self._paths = paths
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True, name="engine progress")
        self._stderr = AboveProgress(sys.stderr)

    def __enter__(self) -> ProgressHere:
        sys.stderr = self._stderr
        return self

    def begin(self) -> None:
        if terminal.is_live():
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_END_S)  # a terminal whose bars are left has no cursor
        sys.stderr = self._stderr.stream

    def _show(self) -> None:
        from sage_inference.cli.engineprogress import EngineProgress
        from sage_inference.daemon.errors import DaemonError
        from sage_inference.daemon.managed import current
        from sage_inference.daemon.pidfile import read

        info = read(self._paths.pid_file)
        if info is None or not on_the_way(current(info)):
            return
        with suppress(DaemonError, OSError), EngineProgress(above=self._stderr) as progress:
            while not self._ended.wait(_LOOK_S) and (left := on_the_way(current(info))):
                progress.show(left)
