"""The engines that ``start`` and ``restart`` bring up: their progress, and the wait for them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sage_inference.cli import enginetext, terminal
from sage_inference.cli.enginewait import say_ready

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

Document = dict[str, Any]
_LOOK_S = 0.3
_END_S = 3.0
_FAILED = ("failed", "stuck", "lost")
_ON_THE_WAY = ("waiting", "starting", "stopping", "draining")


def on_the_way(engines: Sequence[Document]) -> list[Document]:
    """Those that start now, or again in a moment."""
    from sage_inference.daemon.managed import will_retry

    return [
        each
        for each in engines
        if each["state"] in _ON_THE_WAY or (each["state"] == "failed" and will_retry(each) is not None)
    ]


def not_ready(engines: Sequence[Document]) -> list[Document]:
    """Those that may be on their way: an engine that has just been declared is still ``off``."""
    return [each for each in engines if each["state"] != "ready"]


def engines_in(status: Document) -> list[Document]:
    from sage_inference.daemon.managed import engines_of

    return engines_of(status)


def announce_engines(engines: Sequence[Document], *, failed: bool) -> None:
    """A line for each engine that is up or on its way. Remarks are warnings; with ``failed`` also on those that failed."""
    for each in engines:
        if each["state"] == "ready":
            say_ready(each)
        elif each["state"] != "off" and not each.get("failure"):
            state = "starting" if each["state"] == "waiting" else enginetext.state(each)
            terminal.say(f"{enginetext.called(each)} is {state}; sage inference ps shows its progress")
    for text, hint in enginetext.remarks([each for each in engines if failed or not _is_down(each)]):
        terminal.warn(text, hint)


def wait_for(paths: Paths, engines: Sequence[Document]) -> Document | None:
    """Wait with progress until each of ``engines`` is ready or failed, see ``settled``. Returns the gateway's status then.

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

    failed = [failure_of(each) for each in engines if each["state"] in _FAILED]
    for error in failed[1:]:
        terminal.warn(error.problem, error.hint)
    if failed:
        terminal.talk(
            "the gateway runs on without it" if len(failed) == 1 else "the gateway runs on without them"
        )
        raise failed[0]


def _is_down(engine: Document) -> bool:
    return engine["state"] in _FAILED and not on_the_way([engine])


class ProgressHere:
    """The progress of the engines of a gateway in the foreground, whose log goes to the same standard error.

    ``then`` gets the gateway's status when no engine is on its way any more.
    """

    def __init__(self, paths: Paths, then: Callable[[Document], None]) -> None:
        from sage_inference.cli.engineprogress import AboveProgress

        self._paths = paths
        self._then = then
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._stderr = AboveProgress(sys.stderr)

    def __enter__(self) -> ProgressHere:
        sys.stderr = self._stderr
        return self

    def begin(self, status: Document) -> None:
        names = [each["name"] for each in not_ready(engines_in(status))]
        if names:
            self._thread = threading.Thread(target=self._show, args=(names,), daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_S)  # a terminal whose bars are left has no cursor
        sys.stderr = self._stderr.stream

    def _show(self, names: list[str]) -> None:
        from sage_inference.cli.engineprogress import EngineProgress
        from sage_inference.daemon import control
        from sage_inference.daemon.errors import DaemonError
        from sage_inference.daemon.managed import current, settled

        is_over = settled(time.monotonic())
        with suppress(DaemonError, OSError):
            info = control.running(self._paths)
            with EngineProgress(above=self._stderr) as progress:
                while not self._ended.wait(_LOOK_S):
                    engines = [each for each in current(info) if each["name"] in names]
                    progress.show(engines)
                    if all(map(is_over, engines)):
                        break
            status = None if self._ended.is_set() else control.inspect(self._paths).live
            if status is not None:
                self._then(status)
