"""uvicorn's server, with our protocol and our way to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import uvicorn

from sage_inference.config.settings import Settings
from sage_inference.engines.patience import Patience
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.last_requests import LastRequests
from sage_inference.gateway.protocol import GatewayProtocol

_LOOK_S = 0.01  # between two checks of a stopping gateway whether connections are left

log = logging.getLogger("sage_inference.server")


def drain_seconds(settings: Settings) -> int:
    return max(1, round(settings.timeouts.drain_s))


class HttpConfig(uvicorn.Config):
    """uvicorn's settings, and the gateway that its protocol instances serve."""

    def __init__(self, gateway: Gateway, app: Any) -> None:
        super().__init__(
            app,
            http=GatewayProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=4096,
            timeout_graceful_shutdown=drain_seconds(gateway.settings),
        )
        self.gateway = gateway

    def load(self) -> None:
        super().load()
        self.http_protocol_class = self._accept  # type: ignore[assignment]

    def _accept(self, **parts: Any) -> asyncio.Protocol:
        """The protocol of a connection that was accepted."""
        protocol, certificate = GatewayProtocol(**parts), self.gateway.certificate
        return protocol if certificate is None else certificate.transport(protocol)


class HttpServer(uvicorn.Server):
    """uvicorn's server without its ticks of 0.1 s. It ends as soon as it is stopped and all requests have ended."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        on_ended: Callable[[dict[str, int]], None],
        patience: Patience,
    ) -> None:
        """``on_ended`` gets the counts of ``RequestEnds``, of the requests that ``note_requests`` noted."""
        super().__init__(config)
        self._on_started, self._on_ended = on_started, on_ended
        self._patience = patience
        self._last_requests: LastRequests | None = None
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    def note_requests(self) -> None:
        """Note the requests that are under way, because the gateway stops."""
        self._last_requests = LastRequests(self.server_state.connections)  # type: ignore[arg-type]

    def end(self, *, at_once: bool) -> None:
        self.should_exit = True
        self.force_exit = self.force_exit or at_once
        self._ending.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the default headers of responses
        await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drain_s = self.config.timeout_graceful_shutdown
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        ended = self._ended()
        try:
            # asyncio's own limit would count time in which this process was suspended.
            await (ended if drain_s is None else self._patience.within(drain_s, ended))
        except TimeoutError:
            tasks = list(self.server_state.tasks)
            log.error("cancelled %d requests that had not ended within %d s", len(tasks), drain_s)
            for task in tasks:
                task.cancel()
        if self._last_requests is not None:
            self._on_ended(asdict(self._last_requests.ends()))

    async def _ended(self) -> None:
        state = self.server_state
        while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110 - uvicorn's plain sets
            await asyncio.sleep(_LOOK_S)
        for server in self.servers:
            await server.wait_closed()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, because ``run`` handles all signals."""
        yield
