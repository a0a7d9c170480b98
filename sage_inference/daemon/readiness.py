"""One line through a pipe: the background process is ready, or the error that ended it."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable
from typing import Any

from sage_inference.daemon.errors import AlreadyRunning, DaemonError

_LOOK_S = 0.1


class Reporter:
    """The background process's end of the pipe. Reports once, and goes on without a parent."""

    def __init__(self, descriptor: int) -> None:
        # Engines must not keep the pipe open, because its end shows the parent that this process died.
        os.set_inheritable(descriptor, False)
        self._descriptor: int | None = descriptor

    def ready(self, status: dict[str, Any]) -> None:
        self._report({"ready": status})

    def may_commit(self) -> None:
        """Report that all but the predecessor's place is ready. The parent answers through standard input."""
        if self._descriptor is not None:
            os.write(self._descriptor, json.dumps({"commit": True}).encode() + b"\n")

    def failed(self, error: DaemonError) -> None:
        document: dict[str, Any] = {"error": error.problem, "hint": error.hint, "code": error.code}
        if isinstance(error, AlreadyRunning):
            document["pid"] = error.pid
        self._report(document)

    def _report(self, document: dict[str, Any]) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            with os.fdopen(descriptor, "wb") as pipe:
                pipe.write(json.dumps(document).encode() + b"\n")
        except OSError:
            pass


def await_report(
    descriptor: int, timeout_s: float, on_wait: Callable[[float], None] | None = None
) -> dict[str, Any] | None:
    """The report. None if the pipe ended without one. Raises ``TimeoutError``.

    ``on_wait`` gets the seconds waited, about ten times a second.
    """
    began = time.monotonic()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    line = b""
    while not line.endswith(b"\n"):
        waited = time.monotonic() - began
        if waited > timeout_s:
            raise TimeoutError
        if not poll.poll(1000 * min(_LOOK_S, timeout_s - waited)):
            if on_wait:
                on_wait(time.monotonic() - began)
            continue
        piece = os.read(descriptor, 65536)
        if not piece:
            return None
        line += piece
    document: dict[str, Any] = json.loads(line)
    return document


def reported_error(document: dict[str, Any]) -> DaemonError:
    """The error that the background process reported."""
    if document["code"] == AlreadyRunning.code:
        return AlreadyRunning(document.get("pid"))
    error = DaemonError(document["error"], document.get("hint"))
    error.code = document["code"]
    return error
