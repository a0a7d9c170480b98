"""The places where a simulated engine listens: a port, or a Unix socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

from sage_inference.netloc import netloc


class Listener(Protocol):
    """``number`` is the port, or 0 of a Unix socket."""

    number: int

    @property
    def url(self) -> str: ...

    def listener(self) -> socket.socket:
        """A bound socket to listen with."""
        ...


class Port:
    """A port that can be closed to connections and opened again, while no other process can take it.

    A second socket is bound to the port and never listens. While only that one is left, connections are refused.
    """

    def __init__(self, host: str, port: int) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = host
        if port:
            with socket.socket(self._family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))  # fails if the port is taken; the shared bind below would not
        self._placeholder = self._bound(port)
        self.number: int = self._placeholder.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://{netloc(self._host, self.number)}"

    def listener(self) -> socket.socket:
        return self._bound(self.number)

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((self._host, port))
        bound.setblocking(False)
        return bound


class BoundPort:
    """A port as vLLM has it: bound at once with SO_REUSEADDR, and listened on when the engine is ready.

    Until then, another socket with SO_REUSEADDR can bind to the port, and one without cannot.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._bound: socket.socket | None = self._bind(port)
        self.number: int = self._bound.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://{netloc(self._host, self.number)}"

    def listener(self) -> socket.socket:
        bound, self._bound = self._bound or self._bind(self.number), None
        bound.setblocking(False)
        return bound

    def _bind(self, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self._host, port))
        return bound


class UnixSocket:
    """A Unix socket as vLLM's ``--uds``: bound at once, and the file stays when the engine ends.

    A file that is already there is ``EADDRINUSE``, as with vLLM 0.32.
    """

    number = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self._bound: socket.socket | None = self._bind()

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    def listener(self) -> socket.socket:
        if self._bound is None:
            # It was closed to refuse connections. A socket cannot listen again, and its file is in the way.
            Path(self.path).unlink()
        bound, self._bound = self._bound or self._bind(), None
        bound.setblocking(False)
        return bound

    def _bind(self) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(self.path)
        return bound
