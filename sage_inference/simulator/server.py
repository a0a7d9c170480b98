"""A simulated engine as a server process: its listeners, its readiness, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from email.utils import formatdate

import uvicorn
from uvicorn.server import ServerState

from sage_inference.simulator.admin import Admin
from sage_inference.simulator.app import Application
from sage_inference.simulator.engine import SimulatedEngine
from sage_inference.simulator.faults import Fault, FaultBook
from sage_inference.simulator.listeners import Listener
from sage_inference.simulator.protocol import Connection
from sage_inference.simulator.records import Records

_BACKLOG = 4096
_GIVING_UP_S = 1.0


class SimulatorServer:
    """``control`` is a port for ``/simulator`` alone, which works under every fault. ``on_ready`` reports readiness."""

    def __init__(
        self,
        engine: SimulatedEngine,
        port: Listener,
        control: Listener | None,
        *,
        on_ready: Callable[[], None],
        faults: list[Fault] | None = None,
        drain_s: float = 30.0,
        keep_alive_s: int = 5,
    ) -> None:
        self.engine = engine
        self.port = port
        self.control = control
        self._on_ready = on_ready
        self._drain_s = drain_s
        self._records = Records(self._figures)
        self._faults = FaultBook()
        admin = Admin(self._faults, self._records, self._apply_faults)
        self._app = app = Application(engine, self._records, self._faults, admin)
        self._state = ServerState()
        self._config = _uvicorn_config(app, keep_alive_s)
        self._servers: dict[Listener, asyncio.Server] = {}
        self._opened = 0
        self._stopping = asyncio.Event()
        self._faults.replace(faults or [])

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let running requests end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self.control is not None:
            await self._open(self.control)
        await self._apply_faults()
        tasks = [loop.create_task(job) for job in (self._tick(), *self.engine.loops())]
        self._on_ready()
        try:
            await self._stopping.wait()
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            for connection in list(self._state.connections):
                connection.transport.close()
            await asyncio.sleep(0)  # lets the last bytes out

    def core_died(self) -> None:
        """Answer all requests as vLLM does once EngineCore is dead."""
        self._app.core_died()
        self.engine.healthy = False

    def stop(self) -> None:
        """Make ``run`` let running requests end, and return."""
        self._stopping.set()

    def _figures(self) -> Mapping[str, float]:
        mine = sum(1 for one in self._connections())
        return {"connections": mine, "connections_total": self._opened, **self.engine.figures()}

    def _connections(self) -> list[Connection]:
        """The connections to the engine's own port."""
        return [
            one
            for one in self._state.connections
            if isinstance(one, Connection) and one.local_port == self.port.number
        ]

    def _accept(self, port: Listener) -> Connection:
        if port is self.port:
            self._opened += 1
        return Connection(
            config=self._config, server_state=self._state, app_state={}, on_change=self._records.changed
        )

    async def _open(self, port: Listener) -> None:
        loop = asyncio.get_running_loop()
        bound = port.listener()
        create = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        self._servers[port] = await create(lambda: self._accept(port), sock=bound, backlog=_BACKLOG)

    def _close(self, port: Listener) -> None:
        server = self._servers.pop(port, None)
        if server is not None:
            server.close()
        for connection in self._connections():
            connection.shutdown()

    async def _apply_faults(self) -> None:
        """Apply the faults that are states of the engine and not of a request."""
        self.engine.healthy = not self._faults.stands("unhealthy")
        if self._faults.stands("refuse"):
            self._close(self.port)
        elif self.port not in self._servers:
            await self._open(self.port)

    async def _drain(self) -> None:
        self.engine.draining = True
        if not self.engine.drains_open:
            self._close(self.port)
        if not await self._records.reached({"running": 0}, self._drain_s):
            self.engine.give_up()
            await self._records.reached({"running": 0}, _GIVING_UP_S)
        for port in list(self._servers):
            self._close(port)

    async def _tick(self) -> None:
        """Update the responses' date header once a second."""
        server = self.engine.server_header
        while True:
            headers = [(b"date", formatdate(usegmt=True).encode())]
            self._state.default_headers[:] = [*headers, (b"server", server)] if server else headers
            await asyncio.sleep(1)


def _uvicorn_config(app: Application, keep_alive_s: int) -> uvicorn.Config:
    # A connection fails because of a requested fault or of the client, so its errors are no news.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=keep_alive_s,
    )
    config.load()
    return config


def end_with_parent() -> None:
    """End this process as soon as its standard input ends. A parent's death ends it too."""

    def watch() -> None:
        # Not sys.stdin: a thread that reads it at exit is fatal to the interpreter.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
