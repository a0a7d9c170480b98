"""Keep-alive connections to one engine: acquire, connect, release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from errno import ECONNRESET
from functools import partial
from typing import TYPE_CHECKING

from sage_inference import engine_url, trust
from sage_inference.engines import unix_socket
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.descriptors import Descriptors
from sage_inference.engines.lack import LackError, lack
from sage_inference.engines.parser_events import ParserEvents
from sage_inference.engines.receiver import Receiver
from sage_inference.netloc import netloc
from sage_inference.wire.loop_batch import LoopBatch

if TYPE_CHECKING:
    import ssl

MAX_IDLE = 256  # idle connections that are kept
_FEW_IDLE = 16  # of them, after a while without much load
# Pauses between attempts while this machine lacks a resource for a connection. They take a second in all: after
# that the caller should retry later.
LACK_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.3, 0.4)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens. ``prefix`` goes before every path; ``tls`` for https.

    ``uds`` is the path of its Unix socket, or empty. Host and port are then not connected to.
    """

    host: str
    port: int
    prefix: str = ""
    tls: bool = False
    uds: str = ""

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return "localhost" if self.uds else netloc(self.host, self.port)

    @property
    def url(self) -> str:
        """The address as people read it."""
        scheme = "https" if self.tls else "http"
        return engine_url.base_url(scheme, self.host, self.port, self.prefix, self.uds)

    @property
    def requests_url(self) -> str:
        """The same for an HTTP client, which has to be given a Unix socket apart from the address."""
        return engine_url.AT_SOCKET if self.uds else self.url


def reason_of(error: OSError) -> str:
    """The reason for which no connection was made, in words."""
    return trust.explain(error) or unix_socket.explain(error) or error.strerror or type(error).__name__


class Connecting:
    """A connection that is being made, and that can be cancelled.

    ``lacks`` is the resource that this machine lacked at the last attempt, until it is tried again.
    """

    __slots__ = ("_task", "lacks")

    _task: asyncio.Task[None]

    def __init__(self) -> None:
        self.lacks: LackError | None = None

    def begin(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class Pool:
    """Connections to one engine. Idle ones are kept for the next request, newest first."""

    def __init__(
        self,
        address: Address,
        batch: LoopBatch,
        descriptors: Descriptors | None = None,
        ca_file: str | None = None,
    ) -> None:
        self.address = address
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None
        self._descriptors = descriptors or Descriptors()
        self._loop = asyncio.get_running_loop()
        # By their last use. A dict, because a lost connection leaves it from the middle.
        self._idle: dict[EngineConnection, None] = {}
        self._open: set[EngineConnection] = set()  # idle or not; each has a descriptor in the budget
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps weak references only
        self._closed = False
        # One object for the callbacks of all parsers: see ``ParserEvents``.
        self._made = partial(EngineConnection, self._release, self._lost, ParserEvents(), batch)

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context for TLS to the engine, or None for a plain connection. Raises ``TrustError``.

        It is kept, so that a changed file of certificates takes effect with a reload, not between two connections.
        """
        if self._context is None and self.address.tls:
            self._context = trust.context(self._ca_file)
        return self._context

    @property
    def idle(self) -> int:
        return len(self._idle)

    def acquire(self) -> EngineConnection | None:
        """An idle connection, or None if there is none, so that the caller has to ``connect``."""
        idle = self._idle
        while idle:
            # LIFO: the newest is the least likely to be closed by the engine's idle timer.
            connection, _ = idle.popitem()
            # The engine may have closed it in this iteration of the loop, before the loss was reported.
            if not connection.transport.is_closing():
                return connection
        return None

    def connect(
        self,
        made: Callable[[EngineConnection], None],
        failed: Callable[[OSError], None],
        broke: Callable[[Exception], None] | None = None,
    ) -> Connecting:
        """Open a connection. ``made`` or ``failed`` is called later, unless it is cancelled before.

        ``broke`` is called with any other exception, also one of these two: nobody awaits the task that calls them.
        """
        connecting = Connecting()
        task = self._loop.create_task(self._guarded(connecting, made, failed, broke))
        connecting.begin(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connecting

    async def _guarded(
        self,
        connecting: Connecting,
        made: Callable[[EngineConnection], None],
        failed: Callable[[OSError], None],
        broke: Callable[[Exception], None] | None,
    ) -> None:
        try:
            await self._connect(connecting, made, failed)
        except Exception as error:
            if broke is None:
                raise
            broke(error)

    async def _connect(
        self,
        connecting: Connecting,
        made: Callable[[EngineConnection], None],
        failed: Callable[[OSError], None],
    ) -> None:
        lacks: LackError | None = None
        for pause in LACK_PAUSES_S:
            # During the pause, a connection of another request may have become idle.
            connection = self.acquire() if lacks is not None else None
            if connection is None and (lacks := self._descriptors.shortage()) is None:
                try:
                    connection = await self._connection()
                except OSError as error:
                    lacks = lack(error)
                    if lacks is None:
                        failed(error)
                        return
            if connection is not None:
                made(connection)
                return
            connecting.lacks = lacks  # the reason to report if the caller's time ends during the pause
            # An idle connection, of any engine or caller, is closed for this one. Its descriptor is free after the
            # pause.
            self._descriptors.make_room()
            await asyncio.sleep(pause)
        assert lacks is not None
        self._descriptors.report(f"no connection to an engine: {lacks.what}")
        failed(lacks)

    async def _connection(self) -> EngineConnection:
        address = self.address
        context = self.context
        # Counted before it is made, so that no other connection takes its descriptor in the meantime.
        self._descriptors.to_engines += 1
        kept = False
        try:
            if address.uds:
                connection = await unix_socket.connect(self._loop, self._made, address.uds)
            else:
                _, connection = await self._loop.create_connection(
                    self._made,
                    address.host,
                    address.port,
                    ssl=context,
                    server_hostname=address.host if context else None,
                )
            if connection.is_closed:  # it has reported its loss already, and will not do so again
                raise ConnectionResetError(ECONNRESET, "closed as soon as it was made")
            self._open.add(connection)  # from here on, ``_lost`` counts it out
            kept = True
        finally:
            if not kept:
                self._descriptors.to_engines -= 1
        return connection

    def _release(self, connection: EngineConnection) -> None:
        """Called by a connection whose answer ended cleanly."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.discard()
        else:
            self._idle[connection] = None

    def _lost(self, connection: EngineConnection) -> None:
        """Called by a connection that is closed, or that discarded itself: for some of them twice."""
        if connection in self._open:  # only the first call gives the descriptor back
            self._open.remove(connection)
            self._descriptors.to_engines -= 1
        self._idle.pop(connection, None)

    def shrink(self) -> None:
        """Close all idle connections except the newest few."""
        for connection in list(self._idle)[:-_FEW_IDLE]:
            del self._idle[connection]
            connection.discard()

    def give_up_one(self) -> bool:
        """Close the idle connection that was used least recently. False if none is idle."""
        for connection in self._idle:  # the first key of the dict
            del self._idle[connection]
            connection.discard()
            return True
        return False

    def drop_idle(self) -> None:
        """Close all idle connections, which are of no use after a refusal."""
        while self._idle:
            self._idle.popitem()[0].discard()

    def engine_is_silent(self) -> None:
        """Report to all requests under way that the engine answers nobody, and keep no idle connection to it."""
        self.drop_idle()
        for connection in list(self._open):  # a copy, because receivers may discard their connections
            connection.engine_is_silent()

    def answering(self) -> list[Receiver]:
        """The receivers of the answers under way."""
        return [found for connection in self._open if (found := connection.answering) is not None]

    def close(self) -> None:
        """Close all idle connections, now and from now on. Exchanges under way go on to their end."""
        self._closed = True
        self.drop_idle()
