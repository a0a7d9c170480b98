"""Sockets and a clock without an operating system: an event loop whose connections and time the fuzz decides."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

MAX_TURNS = 500
MOMENT_S = 0.01
MOST_READ = 262144  # bytes that a socket hands over at once
_EOF = EOFError()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Dial = Callable[[asyncio.Protocol], "FakeTransport"]


class FuzzLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop; after ``take_over`` it connects to no one and its time stands still."""

    def __init__(self) -> None:
        super().__init__()
        self._now: float | None = None
        self._dial: Dial | None = None
        self.crashes: list[str] = []
        self._aside: set[asyncio.Future[Any]] = set()  # what other threads do for it
        self.set_exception_handler(lambda _, context: self.crashes.append(repr(context)))

    def take_over(self, dial: Dial) -> None:
        self._now = self.time()
        self._dial = dial

    def time(self) -> float:
        return super().time() if self._now is None else self._now

    def advance(self, seconds: float) -> None:
        assert self._now is not None
        self._now += seconds

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        if self._dial is None:
            return await super().create_connection(protocol_factory, *args, **kwargs)
        protocol = protocol_factory()
        return self._dial(protocol), protocol

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._aside.add(future)
        future.add_done_callback(self._aside.discard)
        return future

    async def settle(self) -> None:
        """Until nothing is left to do but to wait for bytes or, for longer than a moment, for time."""
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            if self._aside:
                await asyncio.wait(list(self._aside))
            elif not self._ready and not self._let_a_moment_pass():  # type: ignore[attr-defined]
                return
        self.crashes.append(f"still busy after {MAX_TURNS} turns of the event loop")

    def _let_a_moment_pass(self) -> bool:
        """Go on to the next timer, if it is due as soon as that; False if none is."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if self._now is None or not timers or timers[0].when() > self._now + MOMENT_S:
            return False
        self._now = timers[0].when()
        return True


class FakeTransport(asyncio.Transport):
    """One side of a connection: ``sent`` is what the protocol wrote, ``feed`` is what it is to read."""

    def __init__(
        self,
        loop: FuzzLoop,
        protocol: asyncio.Protocol,
        wrote: Callable[[bytes], None] | None = None,
        *,
        copies: bool = True,
    ) -> None:
        super().__init__()
        self.sent = bytearray()
        self.lost = False
        self._copies = copies  # to ``sent``
        self._loop = loop
        self._protocol = protocol
        self._wrote = wrote
        self._closing = False
        self._reading = True
        self._incoming: deque[bytes | Exception] = deque()  # an error ends it
        protocol.connection_made(self)

    def feed(self, *pieces: bytes) -> None:
        self._incoming.extend(piece for piece in pieces if piece)
        self._pump()

    def end(self, error: Exception | None = None) -> None:
        """The peer closes, or resets with an ``error``."""
        self._incoming.append(error or _EOF)
        self._pump()

    def _pump(self) -> None:
        while self._incoming and self._reading and not self._closing:
            piece = self._incoming.popleft()
            if isinstance(piece, Exception):
                self._lose(None if piece is _EOF else piece)
                return
            try:
                self._protocol.data_received(piece)
            except Exception as error:
                self._loop.crashes.append(f"data_received let {error!r} escape")
                self.abort()

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self.lost:
            self.lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    # asyncio.Transport

    def write(self, data: Any) -> None:
        if self._closing:
            return
        if self._copies:
            self.sent += data
        if self._wrote is not None:
            self._wrote(bytes(data))

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """What came in pieces while nobody read is read as one, up to what a socket hands over."""
        gathered = b""
        while self._incoming and isinstance(self._incoming[0], bytes) and len(gathered) < MOST_READ:
            gathered += self._incoming.popleft()  # type: ignore[operator]
        if gathered:
            self._incoming.appendleft(gathered)
        self._pump()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
