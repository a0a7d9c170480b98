"""A viewer of ``/admin/live``, on a real socket."""

from __future__ import annotations

import json
from typing import Any, Self

from tests.support.inprocess import ADMIN_TOKEN
from tests.support.wire import Caller, Reply

HEAD = f"GET /admin/live HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode()


class Viewer:
    """Reads one event after the other."""

    def __init__(self, port: int) -> None:
        self._caller = Caller(port)
        self._caller.send(HEAD)
        self.head: Reply = self._caller.head()
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.__exit__()

    def event(self) -> tuple[str, dict[str, Any]]:
        while b"\n\n" not in self._buffer:
            piece = self._caller.chunk()
            assert piece, "the stream ended"
            self._buffer += piece
        event, _, self._buffer = self._buffer.partition(b"\n\n")
        name, data = event.split(b"\n")
        return name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))

    def next(self, name: str) -> dict[str, Any]:
        """The next event of this name."""
        while (found := self.event())[0] != name:
            pass
        return found[1]

    def ends(self) -> bool:
        return not self._buffer and self._caller.chunk() == b""
