"""Keep-alive connections to one engine: acquire, release, discard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from errno import ECONNRESET
from functools import partial

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.feeding import Feeding
from sage_inference.engines.turn import Turn

MAX_IDLE = 256
_FEW_IDLE = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens. ``prefix`` goes before every path; ``tls`` for https."""

    host: str
    port: int
    prefix: str = ""
    tls: bool = False

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


class Connecting:
    """A connection being made, which its caller may give up."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class Pool:
    """Connections to one engine. Idle ones are kept for the next request, newest first."""

    def __init__(self, address: Address, turn: Turn) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._idle: dict[EngineConnection, None] = {}
        self._open: set[EngineConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ssl = ssl.create_default_context() if address.tls else None
        self._closed = False
        self._made = partial(EngineConnection, self._release, self._lost, Feeding(), turn)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def acquire(self) -> EngineConnection | None:
        """An idle connection, or None: then ``connect``."""
        idle = self._idle
        while idle:
            # LIFO: the newest is the least likely to be closed by the engine's idle timer.
            connection, _ = idle.popitem()
            if not connection.transport.is_closing():
                return connection
        return None

    def connect(
        self,
        made: Callable[[EngineConnection], None],
        failed: Callable[[OSError], None],
        broke: Callable[[Exception], None] | None = None,
    ) -> Connecting:
        """Open a connection; one of the first two is called later, unless cancelled before.

        ``broke`` gets whatever else is raised, also by these two: nobody waits for the task that calls them.
        """
        task = self._loop.create_task(self._guarded(made, failed, broke))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Connecting(task)

    async def _guarded(
        self,
        made: Callable[[EngineConnection], None],
        failed: Callable[[OSError], None],
        broke: Callable[[Exception], None] | None,
    ) -> None:
        try:
            await self._connect(made, failed)
        except Exception as error:
            if broke is None:
                raise
            broke(error)

    async def _connect(
        self, made: Callable[[EngineConnection], None], failed: Callable[[OSError], None]
    ) -> None:
        address = self.address
        try:
            _, connection = await self._loop.create_connection(
                self._made,
                address.host,
                address.port,
                ssl=self._ssl,
                server_hostname=address.host if self._ssl else None,
            )
        except OSError as error:
            failed(error)
        else:
            if connection.is_closed:  # already: it will never tell that it was lost
                failed(ConnectionResetError(ECONNRESET, "closed as soon as it was made"))
                return
            self._open.add(connection)
            made(connection)

    def _release(self, connection: EngineConnection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.discard()
        else:
            self._idle[connection] = None

    def _lost(self, connection: EngineConnection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def shrink(self) -> None:
        """Close the idle ones but for the newest few."""
        for connection in list(self._idle)[:-_FEW_IDLE]:
            del self._idle[connection]
            connection.discard()

    def drop_idle(self) -> None:
        """Close what is idle: after a refusal, none of it is of use."""
        while self._idle:
            self._idle.popitem()[0].discard()

    def engine_is_silent(self) -> None:
        """The engine answers nobody: tell all who wait for it, and keep no connection for the next."""
        self.drop_idle()
        for connection in list(self._open):
            connection.engine_is_silent()

    def close(self) -> None:
        """Keep nothing from now on; exchanges that run end by themselves."""
        self._closed = True
        self.drop_idle()
