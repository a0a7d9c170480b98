"""An attempt alone: its states, what ends it, and whose it is."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.lack import LackError
from sage_inference.engines.pool import Address
from sage_inference.engines.receiver import Broken
from sage_inference.gateway.hub import Hub
from sage_inference.gateway.relay.attempt import Attempt, AttemptState
from sage_inference.gateway.upstream import Upstream
from sage_inference.types import ExecutionInstance, ExecutionInstanceType
from sage_inference.wire.message import Data, ResponseHead
from sage_inference.wire.timers import TimerWheel

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"


class Owner:
    """Sends an empty message, and notes what comes of it."""

    def __init__(self, attempt: Attempt | None = None) -> None:
        self.attempt: Any = attempt
        self.place: Any = "a slot"
        self.length: int | None = None
        self.heard: list[Any] = []
        self.something = asyncio.Event()

    def note(self, what: Any) -> None:
        self.heard.append(what)
        self.something.set()

    async def next(self) -> Any:
        await asyncio.wait_for(self.something.wait(), 5)
        self.something.clear()
        return self.heard[-1]

    def connected(self, connection: EngineConnection) -> None:
        self.attempt.sent(connection, 1.0)
        connection.send(self, HEAD, b"")
        self.note(AttemptState.SENT)

    def not_connected(self, error: OSError) -> None:
        self.note(error)

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        self.attempt.answer, self.length = answer, length

    def engine_sends(self, piece: Data, end: bool) -> None:
        if end:
            self.attempt.connection = None
        self.note(bytes(piece))

    def engine_failed(self, how: Broken, detail: str) -> None:
        self.note((how, self.attempt.disconnected(how, begun=self.attempt.answer is not None)))

    def engine_is_silent(self) -> None:
        self.note("silent")

    def broke(self, error: Exception) -> None:
        raise error


class Engine:
    """A listening socket whose connections the test answers by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)

    async def accept(self) -> socket.socket:
        wire, _ = await asyncio.to_thread(self.listener.accept)
        return wire

    def attempt(self) -> Attempt:
        address = Address("127.0.0.1", self.listener.getsockname()[1])
        settings = InstanceSettings(url=address.url, name="here")
        instance = ExecutionInstance("here", address.host, address.port, "m", ExecutionInstanceType.GENERAL)
        hub = Hub(Settings(), TimerWheel(asyncio.get_running_loop()))
        return Attempt(Upstream(settings, instance, address, hub), instance)


def blame(attempt: Attempt) -> str | None:
    """The fault that the upstream has on record for its engine; None if it has none."""
    return attempt.upstream.last_error


async def sent(engine: Engine) -> tuple[Owner, socket.socket]:
    """An owner whose message is on its way, and the engine's end of the connection."""
    owner = Owner(engine.attempt())
    owner.attempt.connect(owner)
    assert await owner.next() is AttemptState.SENT
    return owner, await engine.accept()


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.listener.close()


def test_it_connects_sends_is_answered_and_is_over(engine: Engine) -> None:
    async def main() -> None:
        owner = Owner(engine.attempt())
        attempt = owner.attempt
        states = [attempt.state]  # nothing is under way
        attempt.connect(owner)
        states.append(attempt.state)
        assert await owner.next() is AttemptState.SENT
        states.append(attempt.state)
        assert states == [AttemptState.OVER, AttemptState.CONNECTING, AttemptState.SENT]
        wire = await engine.accept()
        wire.sendall(HALF)
        assert await owner.next() == b"ok"
        assert (attempt.state, owner.length) == (AttemptState.ANSWERING, 9)
        wire.sendall(b"1234567")
        assert await owner.next() == b"1234567"
        assert attempt.state is AttemptState.OVER
        wire.close()

    asyncio.run(main())


@pytest.mark.parametrize("at", [AttemptState.CONNECTING, AttemptState.SENT, AttemptState.ANSWERING])
def test_abandoned_in_any_state_it_is_over_and_the_engine_sees_it(engine: Engine, at: AttemptState) -> None:
    async def main() -> None:
        owner = Owner(engine.attempt())
        attempt = owner.attempt
        attempt.connect(owner)
        if at is AttemptState.CONNECTING:
            attempt.abandon()
            assert (attempt.state, owner.heard) == (AttemptState.OVER, [])
            await asyncio.sleep(0)
            assert owner.heard == []
            return
        await owner.next()
        wire = await engine.accept()
        if at is AttemptState.ANSWERING:
            wire.sendall(HALF)
            await owner.next()
        heard = list(owner.heard)
        attempt.abandon()
        assert attempt.state is AttemptState.OVER
        wire.settimeout(5)
        assert HEAD in await asyncio.to_thread(_to_the_end, wire)
        assert owner.heard == heard  # an owner that gave up gets no report
        wire.close()

    asyncio.run(main())


def _to_the_end(wire: socket.socket) -> bytes:
    got = b""
    try:
        while more := wire.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


@pytest.mark.parametrize("at", [AttemptState.SENT, AttemptState.ANSWERING])
def test_transferred_its_slot_its_reports_and_its_length_are_the_new_owners(
    engine: Engine, at: AttemptState
) -> None:
    async def main() -> None:
        former, wire = await sent(engine)
        attempt = former.attempt
        if at is AttemptState.ANSWERING:
            wire.sendall(HALF)
            await former.next()
        heard, owner = list(former.heard), Owner()
        attempt.transfer_to(owner, former)
        assert (owner.attempt, owner.place) == (attempt, "a slot")
        assert (former.attempt, former.place) == (None, None)
        assert attempt.state is at
        wire.sendall(b"1234567" if at is AttemptState.ANSWERING else ANSWER)
        await owner.next()
        assert owner.length == (9 if at is AttemptState.ANSWERING else 2)
        assert (former.heard, attempt.state) == (heard, AttemptState.OVER)
        wire.close()

    asyncio.run(main())


def test_transferred_while_its_connection_closes_its_last_bytes_are_the_new_owners(engine: Engine) -> None:
    """A read may be handled when the connection's end was read, too: bytes and end are still to be reported."""

    async def main() -> None:
        former, wire = await sent(engine)
        attempt = former.attempt
        wire.sendall(b"HTTP/1.1 200 OK\r\n\r\nok")
        assert await former.next() == b"ok"
        attempt.connection.transport.close()
        assert attempt.connection.is_closed
        owner = Owner()
        attempt.transfer_to(owner, former)
        assert await owner.next() == b""
        assert (former.heard, attempt.state) == ([AttemptState.SENT, b"ok"], AttemptState.OVER)
        wire.close()

    asyncio.run(main())


def test_an_attempt_over_is_transferred_without_its_former_connection(engine: Engine) -> None:
    async def main() -> None:
        former, wire = await sent(engine)
        attempt = former.attempt
        wire.sendall(ANSWER)
        await former.next()
        owner = Owner()
        attempt.transfer_to(owner, former)
        assert (attempt.state, owner.length, attempt.upstream.pool.idle) == (AttemptState.OVER, 2, 1)
        attempt.abandon()
        assert attempt.upstream.pool.idle == 1  # the connection serves others by now
        wire.close()

    asyncio.run(main())


@pytest.mark.parametrize("begun", [False, True])
def test_only_an_idle_connection_that_brought_no_byte_was_stale(engine: Engine, begun: bool) -> None:
    async def main() -> None:
        first, wire = await sent(engine)
        pool = first.attempt.upstream.pool
        wire.sendall(ANSWER)
        await first.next()
        reused = pool.acquire()
        assert reused is not None
        owner = Owner(Attempt(first.attempt.upstream, first.attempt.instance))
        owner.connected(reused)
        await owner.next()
        if begun:
            wire.sendall(HALF)
            await owner.next()
        wire.close()
        assert await owner.next() == (Broken.CLOSED, not begun)
        assert owner.attempt.state is AttemptState.OVER
        assert blame(owner.attempt) is None  # whether the engine is to blame is up to the owner

    asyncio.run(main())


def test_a_connection_made_for_it_is_never_stale(engine: Engine) -> None:
    async def main() -> None:
        owner, wire = await sent(engine)
        wire.close()
        assert await owner.next() == (Broken.CLOSED, False)

    asyncio.run(main())


def test_a_refusal_is_the_engines_fault_and_another_may_be_tried(engine: Engine) -> None:
    async def main() -> None:
        owner = Owner(engine.attempt())
        engine.listener.close()
        owner.attempt.connect(owner)
        error, may_retry = owner.attempt.refusal(await owner.next())
        assert (error.status, may_retry) == (502, True)
        assert "here" in error.message
        assert (blame(owner.attempt), owner.attempt.state) == ("refused a connection", AttemptState.OVER)

    asyncio.run(main())


def test_a_lack_of_ours_is_nobody_elses_fault(engine: Engine) -> None:
    async def main() -> None:
        attempt = engine.attempt()
        error, may_retry = attempt.refusal(
            LackError(errno.EMFILE, "this process has no file descriptors left")
        )
        assert (error.status, may_retry) == (503, False)
        assert blame(attempt) is None

    asyncio.run(main())


@pytest.mark.parametrize("lacks", [False, True])
def test_a_connection_that_takes_too_long_is_given_up(engine: Engine, lacks: bool) -> None:
    async def main() -> None:
        owner = Owner(engine.attempt())
        owner.attempt.connect(owner)
        assert owner.attempt.connecting is not None
        if lacks:
            owner.attempt.connecting.lacks = LackError(errno.EMFILE, "no descriptors are left")
        error, may_retry = owner.attempt.connect_timeout(2.5)
        assert (error.status, may_retry) == ((503, False) if lacks else (504, True))
        assert blame(owner.attempt) == (None if lacks else "refused a connection")
        await asyncio.sleep(0)
        assert (owner.heard, owner.attempt.state) == ([], AttemptState.OVER)

    asyncio.run(main())
