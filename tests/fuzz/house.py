"""A gateway in this process whose callers and engine are the fuzz's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sage_inference.config.settings import HealthSettings, InstanceSettings, Settings, TimeoutSettings
from sage_inference.server import RunningGateway
from tests.fuzz.reader import Message, read_requests
from tests.fuzz.wires import FakeTransport, FuzzLoop
from tests.support.rogue import RogueEngine, ok
from tests.support.tei import FakeTEI

LONGER_THAN_ANY_TIMEOUT_S = 5.0
TIMEOUTS = TimeoutSettings(
    connect_s=1, first_byte_s=1, stream_idle_s=1, header_s=1, body_s=1, keep_alive_s=1, queue_s=1
)


class Broken(AssertionError):
    """An invariant does not hold."""


class EngineEnd:
    """The engine's side of one connection: reads requests strictly, and lets the scenario answer."""

    def __init__(self, house: House, protocol: asyncio.Protocol) -> None:
        self.requests: list[Message] = []
        self._house = house
        self._unread = b""
        self.transport = FakeTransport(house.loop, protocol, self._wrote)

    def _wrote(self, data: bytes) -> None:
        self._unread += data
        reading = read_requests(self._unread)
        if reading.error:
            raise Broken(f"sent the engine what is no HTTP ({reading.error}): {self._unread!r}")
        self._unread = reading.rest
        for request in reading.whole:
            self.requests.append(request)
            self._house.arrived.append((self, request))
            self._house.loop.call_soon(self._house.on_request, self, request)


class CallerEnd:
    """A caller's connection to the gateway."""

    def __init__(self, house: House) -> None:
        server = house.running.server
        protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
            config=server.config, server_state=server.server_state, app_state={}, _loop=house.loop
        )
        self.protocol = protocol
        self.transport = FakeTransport(house.loop, protocol)


class House:
    """``on_request`` is the scenario's engine; ``arrived`` every request that reached it, in order.

    ``reranks``: there is also a TEI that reranks, so that requests to rerank are translated.
    """

    def __init__(self, *, reranks: bool = False) -> None:
        self._reranks = reranks
        self.loop = FuzzLoop()
        self.arrived: list[tuple[EngineEnd, Message]] = []
        self.ends: list[EngineEnd] = []
        self.callers: list[CallerEnd] = []
        self.on_request: Callable[[EngineEnd, Message], None] = lambda _, __: None
        self.loop.run_until_complete(self._open())
        for watcher in self.running.fleet._watchers.values():
            watcher.cancel()  # an answer that looks like a lost model would make it ask over sockets

    def close(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()

    async def _open(self) -> None:
        """Let the gateway find out, over real sockets, which engines it has; then take the sockets away."""
        with RogueEngine(ok()) as engine, FakeTEI() as tei:
            instances = (
                InstanceSettings(url=engine.url, name="e0", kind="mixed", engine="openai"),
                InstanceSettings(url=tei.url, name="e1"),
            )
            settings = Settings(
                instances=instances if self._reranks else instances[:1],
                timeouts=TIMEOUTS,
                health=HealthSettings(interval_s=1e9, failures=10**9),
            )
            self.running = RunningGateway(settings)
            await self.running.fleet.start(settings)
        assert self.running.gateway.can_serve
        self.running.server.config.load()
        self.loop.take_over(self._dial)

    def _dial(self, protocol: asyncio.Protocol) -> FakeTransport:
        end = EngineEnd(self, protocol)
        self.ends.append(end)
        return end.transport

    def call(self) -> CallerEnd:
        caller = CallerEnd(self)
        self.callers.append(caller)
        return caller

    def begin(self, on_request: Callable[[EngineEnd, Message], None]) -> None:
        self.arrived.clear()
        self.callers.clear()
        self.ends = [end for end in self.ends if not end.transport.lost]
        self.on_request = on_request

    async def outlast(self) -> None:
        """Let every timeout pass: whoever still waits then waits for ever."""
        self._pass_time()
        await self.loop.settle()
        # The wheel finds deadlines that were moved only when their old bucket's turn comes.
        self._pass_time()
        await self.loop.settle()
        held = [caller for caller in self.callers if not caller.transport.lost]
        for caller in held:
            caller.transport.end()
        await self.loop.settle()
        if held:
            raise Broken("the connection outlives every timeout")

    def _pass_time(self) -> None:
        self.loop.advance(LONGER_THAN_ANY_TIMEOUT_S)
        self.running.wheel.now += LONGER_THAN_ANY_TIMEOUT_S  # it would take the leap for a stall

    def check_calm(self) -> None:
        """Nothing crashed and nothing is left of what ran."""
        gateway = self.running.gateway
        if self.loop.crashes:
            crashes, self.loop.crashes = self.loop.crashes, []
            raise Broken("; ".join(crashes))
        left = (gateway.in_flight, gateway.scheduler.queued, gateway.connections)
        if left != (0, 0, 0):
            raise Broken(f"left behind: {left} in flight, queued, connections")
