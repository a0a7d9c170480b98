"""The report of a gateway that ends, to the command that replaces it: what became of its last requests.

The command asks for it on the gateway's name in the kernel, before the new gateway takes that name over. The
connection stays open until the old gateway's end. A gateway of an older version closes it at once.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from sage_inference.daemon import presence
from sage_inference.daemon.process import Process

QUESTION = {"report": "end"}
_ANSWER_S = 1.0  # for a report that was sent before the gateway ended
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class EndReport:
    """Counts of the requests that were under way when a gateway began to stop.

    ``failed``: cut off at the end of the drain time, or ended by an error. ``left``: by their callers. ``streams``: those
    of all that were streams, ``failed_streams`` those of ``failed``.
    """

    finished: int
    failed: int
    left: int
    streams: int
    failed_streams: int

    @property
    def total(self) -> int:
        return self.finished + self.failed + self.left


class EndReportAwaited:
    """A connection to a gateway that will report its end."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection

    @classmethod
    def ask(cls, gateway: Process, folder: Path) -> Self:
        """Ask the gateway whose files lie in ``folder``."""
        connection = presence.connect(folder)
        if connection is None:
            return cls(None)
        if presence.peer(connection, folder) == gateway:
            with contextlib.suppress(OSError):
                connection.settimeout(_ANSWER_S)
                connection.sendall(json.dumps(QUESTION).encode() + b"\n")
                return cls(connection)
        connection.close()
        return cls(None)

    def read(self) -> EndReport | None:
        """The report of a gateway that has ended. None if it sent none: it was killed, or is of an older version."""
        if self._connection is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError), self._connection as connection:
            document = json.loads(connection.recv(_LARGEST))
            return EndReport(**{each.name: int(document[each.name]) for each in fields(EndReport)})
        return None


class EndListeners:
    """The connections that wait for this gateway's report."""

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        """Keep a connection. Those that were closed meanwhile are dropped."""
        for each in [each for each in self._connections if _is_closed(each)]:
            self._connections.remove(each)
            each.close()
        self._connections.append(connection)

    def report(self, counts: dict[str, int]) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps(counts).encode() + b"\n")
        self._connections = []


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
