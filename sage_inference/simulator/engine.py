"""The interface between the server and each simulated engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from sage_inference.simulator.exchange import Headers, Reply, Request

Handler = Callable[[Request, Reply], Awaitable[None]]


class SimulatedEngine(Protocol):
    """``drains_open``: after SIGTERM the engine goes on accepting, and refuses new work with its ``draining`` answer."""

    kind: str
    models: tuple[str, ...]
    server_header: bytes | None
    drains_open: bool
    healthy: bool
    draining: bool

    def headers_for(self, request: Request) -> Headers:
        """The headers of every response to ``request``."""
        ...

    async def handle(self, request: Request, reply: Reply) -> None: ...

    def give_up(self) -> None:
        """End running work, if the engine can, because the time to finish after SIGTERM is over."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Counts for ``/simulator/stats``."""
        ...

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """The work that runs beside the server until it stops."""
        ...
