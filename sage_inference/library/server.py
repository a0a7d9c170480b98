"""``UnifiedAPIServer``: a gateway that a program starts and stops."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any, Self, Unpack

from sage_inference.config.settings import Settings
from sage_inference.daemon.bind import bind
from sage_inference.gateway.api.status import status_document
from sage_inference.library.app import GatewayApp
from sage_inference.library.config import UnifiedServerConfig
from sage_inference.library.options import ServerFields
from sage_inference.netloc import origin
from sage_inference.server import RunHooks, RunningGateway, new_event_loop

_STOP_MARGIN_S = 5.0  # added to the drain time when the thread is awaited


class UnifiedAPIServer:
    """A gateway in this process: ``with UnifiedAPIServer(config) as server: …``, or ``async with``.

    ``app`` is a gateway of the same settings as an ASGI application, to be mounted elsewhere. It needs no start.
    ``admin_token`` opens ``/admin`` of both, as ``Authorization: Bearer``. Each server object has its own.
    """

    def __init__(self, config: UnifiedServerConfig | None = None) -> None:
        """Without ``config`` all fields have their defaults. Raises ``ConfigError`` for invalid settings."""
        self.config = config or UnifiedServerConfig()
        self.settings: Settings = self.config.settings()
        self.admin_token = secrets.token_urlsafe(32)
        self.app = GatewayApp(self.settings, self.admin_token)
        self._run: _ServerRun | None = None

    @property
    def url(self) -> str:
        """The address that it listens on, as ``http://host:port``, or ``https://`` with a certificate."""
        server = self.settings.server
        return origin(server.host, server.port, server.tls_cert is not None)

    def start(self, block: bool = True) -> None:
        """Serve until SIGINT, SIGTERM or ``stop``. With ``block=False`` serve in a thread, and return once ready.

        Raises ``BindError`` if the address is in use or cannot be bound, and ``RuntimeError`` if it runs already.
        """
        run = self._begin()
        thread = threading.Thread(target=run.on_new_loop, name="sage-inference-server", daemon=True)
        run.thread = thread
        if block and threading.current_thread() is threading.main_thread():
            with _interrupts(run):
                thread.start()
                thread.join()
        else:
            thread.start()
            run.ready.wait()
            if block:
                thread.join()
        if run.failure is not None:
            raise run.failure

    def stop(self) -> None:
        """Let running requests finish for at most ``timeouts.drain_s``, then end. A second call does nothing."""
        run, self._run = self._run, None
        if run is None:
            return
        run.stop()
        if run.thread is not None:
            run.thread.join(self.settings.timeouts.drain_s + _STOP_MARGIN_S)

    async def start_async(self) -> None:
        """Serve on the running event loop. Returns once ready. Raises as ``start``."""
        run = self._begin()
        run.task = asyncio.create_task(run.serve())
        began = asyncio.create_task(run.began.wait())
        await asyncio.wait({run.task, began}, return_when=asyncio.FIRST_COMPLETED)
        began.cancel()
        if run.task.done():
            self._run = None
            await run.task

    async def stop_async(self) -> None:
        """``stop`` for a server that ``start_async`` started."""
        run, self._run = self._run, None
        if run is not None and run.task is not None:
            run.stop()
            await run.task
        await self.app.aclose()

    def is_running(self) -> bool:
        """True while it accepts requests."""
        return self._run is not None and self._run.serving

    def get_status(self) -> dict[str, Any]:
        """The document of ``sage inference status --json``: state, address, policy, requests, instances."""
        running = self._run.gateway if self._run is not None and self._run.serving else self.app.running
        if running is None:
            return {"schema": 1, "state": "stopped", "address": self.url, "instances": []}
        return status_document(running.gateway)

    def __enter__(self) -> Self:
        self.start(block=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_async()

    def _begin(self) -> _ServerRun:
        if self._run is not None:
            raise RuntimeError(f"this server runs already, at {self.url}")
        logging.getLogger("sage_inference").setLevel(self.settings.logging.level.upper())
        self._run = _ServerRun(
            self.settings, self.admin_token, bind(self.settings.server.host, self.settings.server.port)
        )
        return self._run


class _ServerRun:
    """One gateway on one socket, from start to stop, in a thread or a task."""

    def __init__(self, settings: Settings, admin_token: str, sock: socket.socket) -> None:
        self.ready = threading.Event()
        self.began = asyncio.Event()  # the same on the loop that it runs on
        self.failure: BaseException | None = None
        self.serving = False
        self.thread: threading.Thread | None = None
        self.task: asyncio.Task[None] | None = None
        self.gateway: RunningGateway | None = None
        self._settings = settings
        self._admin_token = admin_token
        self._sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unwanted = False  # stopped before it had begun

    def on_new_loop(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self.serve())
        except BaseException as error:
            self.failure = error
        finally:
            self.ready.set()

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        hooks = RunHooks(ready=self._started)
        self.gateway = RunningGateway(self._settings, admin_token=self._admin_token, hooks=hooks)
        try:
            await self.gateway.serve(self._sock)
        finally:
            self.serving = False
            self._sock.close()

    def _started(self, _: dict[str, Any]) -> None:
        self.serving = True
        self.ready.set()
        self.began.set()
        if self._unwanted:
            self._stop()

    def stop(self) -> None:
        """Stop, from any thread. A second call ends running requests at once."""
        self._unwanted = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.gateway is not None and self.serving:
            self.gateway.stop(at_once=self.gateway.gateway.draining)


class _interrupts:  # noqa: N801 - used like a function, in a with statement
    """SIGINT and SIGTERM stop the server while ``start`` blocks. A second one ends it at once."""

    def __init__(self, run: _ServerRun) -> None:
        self._run = run
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._run.stop()


def create_unified_server(**fields: Unpack[ServerFields]) -> UnifiedAPIServer:
    """A server with the fields of ``UnifiedServerConfig`` as keywords. Raises as both constructors do."""
    return UnifiedAPIServer(UnifiedServerConfig(**fields))
