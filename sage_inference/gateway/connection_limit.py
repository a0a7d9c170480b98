"""The bound on callers' connections, and the few that are accepted beyond it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from sage_inference.engines.descriptors import Descriptors
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError

# Connections beyond the limit, on which /admin and /health are answered. They fit into ``descriptors.KEPT``.
EXTRA = 6
HEAD_S = 2.0  # within which one of these has to send the head of its request
IDLE_S = 0.25  # a connection that has been idle for less may have a request on its way
_OPEN_PATHS = ("/admin/", "/health")


class LimitedConnection(Protocol):
    """A caller's connection, as the limit sees it."""

    @property
    def idle_since(self) -> float | None:
        """The time since which it waits for a request, on the wheel's clock; None while it has one."""

    def close_idle(self) -> None: ...

    def turn_away(self, error: ApiError) -> bool:
        """Refuse the connection if it has had no request yet, and return whether that is so."""


class ConnectionLimit:
    """Counts callers' connections. The limit is ``configured``, or less where the system grants less open files.

    Where open files are short, idle connections to engines are closed, and then those of callers that wait for a
    request, the longest idle first, as nginx does with its keep-alive connections. One that has sent nothing so far
    gets a 503 first. If no connection is idle, a few more are accepted, and only /admin and /health are answered
    there, so that the machine's user can still read the status and stop the gateway.
    """

    def __init__(
        self,
        connections: Callable[[], Iterable[LimitedConnection]],
        now: Callable[[], float],
        descriptors: Descriptors,
    ) -> None:
        self.configured = 0
        self._connections = connections
        self._now = now
        self._descriptors = descriptors
        self._idle: deque[LimitedConnection] = deque()
        self._searched_at = -1.0
        self._extra: dict[LimitedConnection, None] = {}

    @property
    def most(self) -> int:
        """The number of callers that may be connected."""
        return min(self.configured, self._descriptors.most_callers)

    @property
    def by_system(self) -> bool:
        """Whether the system's limit is the lower one."""
        return self._descriptors.most_callers < self.configured

    def close_one(self) -> bool:
        """Close the connection that has waited longest for a request; False where none waits."""
        before = self._now() - IDLE_S
        # Reading all connections is slow, so once a tick.
        if not self._idle and self._searched_at != self._now():
            self._searched_at = self._now()
            found = [
                (since, connection)
                for connection in self._connections()
                if (since := connection.idle_since) is not None
            ]
            found.sort(key=lambda pair: pair[0])
            self._idle.extend(connection for since, connection in found if since <= before)
        while self._idle:
            connection = self._idle.popleft()
            since = connection.idle_since
            if since is not None and since <= before:
                # The first request of a new connection may be on its way, and should get a 503, not a closed socket.
                if not connection.turn_away(self.error()):
                    connection.close_idle()
                return True
        return False

    def admit(self, newcomer: LimitedConnection) -> bool:
        """Let a connection beyond the limit in like any other, if possible. If not, it is one of the extra ones."""
        if self.by_system and self._descriptors.make_room():
            return True
        self._descriptors.report(self.error().message)
        if len(self._extra) >= EXTRA and not any(
            extra.turn_away(self.error()) for extra in list(self._extra)
        ):
            newcomer.turn_away(self.error())
        else:
            self._extra[newcomer] = None
        return False

    def forget(self, connection: LimitedConnection) -> None:
        """The connection is closed, or is about to be."""
        self._extra.pop(connection, None)

    def allows(self, path: bytes) -> bool:
        """Whether a request is answered on one of the extra connections."""
        return path.decode("latin-1").startswith(_OPEN_PATHS)

    def error(self) -> ApiError:
        if self.by_system:
            limit = (
                f"{self.most} are the most for a limit of {self._descriptors.granted} open files;"
                " raise it with ulimit -n, or with LimitNOFILE= in the service's unit"
            )
        else:
            limit = f"{self.most} are allowed (limits.connections)"
        return errors.too_many_connections(limit)
