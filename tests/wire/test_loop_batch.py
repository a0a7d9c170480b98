"""What one turn of the event loop gathers, and in which order it goes out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.parser_events import ParserEvents
from sage_inference.engines.receiver import Broken
from sage_inference.server import new_event_loop
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.message import Data, ResponseHead

Log = list[str]


class Ends:
    """Both ends of a connection: a transport to write to, and what arrived at the other side."""

    def __init__(self, transport: asyncio.Transport, end: socket.socket) -> None:
        self.transport = transport
        self.end = end

    def got(self) -> bytes:
        """What is there now."""
        try:
            return self.end.recv(1 << 20)
        except BlockingIOError:
            return b""


def run(test: Callable[[LoopBatch, Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            near, far = (stack.enter_context(end) for end in socket.socketpair())
            far.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
            await test(LoopBatch(loop.call_soon), Ends(transport, far))
            transport.abort()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_a_write_alone_goes_out_at_once() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        turn.write(ends.transport, b"one")
        assert ends.got() == b"one"

    run(test)


def test_writes_wait_for_the_end_of_a_turn_that_has_notes_and_go_before_them_in_order() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        seen: list[bytes] = []
        turn.later(lambda text: seen.append(text + ends.got()), b"note: ")
        turn.write(ends.transport, b"one ")
        turn.write(ends.transport, b"two")
        assert (ends.got(), seen) == (b"", [])
        await asyncio.sleep(0)
        assert seen == [b"note: one two"]
        turn.write(ends.transport, b"at once")
        assert ends.got() == b"at once"

    run(test)


def test_notes_are_made_in_order_and_what_they_write_and_note_is_not_forgotten() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        log: Log = []

        def first() -> None:
            log.append("first")
            turn.write(ends.transport, b"1")
            turn.later(log.append, "third")

        turn.later(first)
        turn.later(log.append, "second")
        await asyncio.sleep(0)
        assert (log, ends.got()) == (["first", "second", "third"], b"1")

    run(test)


def test_a_note_that_fails_takes_no_other_with_it() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        log: Log = []
        crashes: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: crashes.append(what["exception"]))

        def fails() -> None:
            turn.write(ends.transport, b"said")
            raise LookupError

        for note in (fails, fails, lambda: log.append("made")):
            turn.later(note)
        while not log:
            await asyncio.sleep(0)
        assert [type(crash) for crash in crashes] == [LookupError, LookupError]
        assert ends.got() == b"saidsaid"

    run(test)


@pytest.mark.parametrize("how", ["flush", "writelines", "close"])
def test_what_was_gathered_goes_before_what_cannot_wait_and_the_notes_stay(how: str) -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        log: Log = []
        turn.later(log.append, "made")
        turn.write(ends.transport, b"one")
        if how == "flush":
            turn.flush()
        elif how == "writelines":
            turn.writelines(ends.transport, (b" two", b" three"))
        else:
            turn.close(ends.transport)
            assert ends.transport.is_closing()
        assert (ends.got(), log) == (b"one two three" if how == "writelines" else b"one", [])
        await asyncio.sleep(0)
        assert (ends.got(), log) == (b"", ["made"])

    run(test)


def test_what_is_written_to_a_transport_that_closes_first_is_dropped() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        log: Log = []
        turn.later(log.append, "made")
        turn.write(ends.transport, b"one")
        ends.transport.abort()
        await asyncio.sleep(0)
        assert (ends.got(), log) == (b"", ["made"])

    run(test)


def test_a_write_to_a_connection_that_is_gone_keeps_no_other_from_going_out() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        near, far = socket.socketpair()
        far.close()
        gone, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
        gone.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        turn.later(lambda: turn.write(gone, b"lost"))
        turn.later(lambda: turn.write(ends.transport, b"sent"))
        await asyncio.sleep(0)
        assert ends.got() == b"sent"

    run(test)


@pytest.mark.parametrize(("size", "count"), [(16385, 1), (16000, 17)])
def test_much_is_not_gathered_so_that_a_slow_reader_is_noticed_in_time(size: int, count: int) -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        turn.later(lambda: None)
        turn.write(ends.transport, b"first ")
        for _ in range(count):
            turn.write(ends.transport, b"x" * size)
        assert ends.got().startswith(b"first xxx")

    run(test)


class Echo(asyncio.Protocol):
    """Says what it read; ``b"fail"`` it does not understand."""

    def __init__(self, turn: LoopBatch, transport: asyncio.Transport) -> None:
        self.turn = turn
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"fail":
            raise LookupError
        self.turn.write(self.transport, data)


def test_what_is_held_is_read_in_order_before_writes_are_sent_and_notes_made() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        seen: list[bytes] = []
        echo = Echo(turn, ends.transport)
        assert not turn.defers_reads
        turn.later(lambda: seen.append(ends.got()))
        assert turn.defers_reads
        turn.write(ends.transport, b"zero ")
        turn.defer(echo, b"one ")
        turn.defer(echo, b"two")
        await asyncio.sleep(0)
        assert seen == [b"zero one two"]
        assert not turn.defers_reads

    run(test)


def test_much_is_not_held_but_behind_what_is_of_its_own_connection() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        deferred, not_deferred = Echo(turn, ends.transport), Echo(turn, ends.transport)
        turn.later(lambda: None)
        turn.defer(deferred, b"one ")
        turn.defer(not_deferred, b"x" * 16385)
        assert ends.got() == b"x" * 16385
        turn.defer(deferred, b"y" * 16385)
        assert ends.got() == b""
        assert turn.defers_reads
        await asyncio.sleep(0)
        assert ends.got() == b"one " + b"y" * 16385

    run(test)


def test_a_reader_that_fails_loses_its_connection_and_takes_nothing_else_with_it() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        crashes: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: crashes.append(what["exception"]))
        log: Log = []
        with ExitStack() as stack:
            near, _far = (stack.enter_context(end) for end in socket.socketpair())
            other, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
            turn.later(log.append, "made")
            turn.defer(Echo(turn, other), b"fail")
            turn.defer(Echo(turn, ends.transport), b"read")
            while not log:
                await asyncio.sleep(0)
            assert other.is_closing()
            assert (ends.got(), ends.transport.is_closing()) == (b"read", False)
            while not crashes:
                await asyncio.sleep(0)
            assert [type(crash) for crash in crashes] == [LookupError]

    run(test)


class Receives:
    """What is told of an answer."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        self.told.append(answer.status)

    def engine_sends(self, piece: Data, end: bool) -> None:
        self.told.append((piece, end))

    def broke(self, error: Exception) -> None:
        raise error

    def engine_failed(self, how: Broken, detail: str) -> None:
        self.told.append(how)

    def engine_is_silent(self) -> None: ...


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"


def connection(turn: LoopBatch, ends: Ends) -> EngineConnection:
    made = EngineConnection(lambda idle: None, lambda lost: None, ParserEvents(), turn)
    made.connection_made(ends.transport)
    return made


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_answer_is_read_at_the_end_of_the_turn_or_before_its_connection_is_lost(is_lost: bool) -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        engine, receiver = connection(turn, ends), Receives()
        engine.send(receiver, b"", b"")
        turn.later(lambda: None)
        engine.data_received(ANSWER)
        assert receiver.told == []
        if is_lost:
            engine.connection_lost(None)
        else:
            await asyncio.sleep(0)
        assert receiver.told == [200, (b"good", True)]

    run(test)


def test_a_connection_that_was_paused_before_the_end_of_its_answer_was_read_is_read_again() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        engine, receiver = connection(turn, ends), Receives()
        engine.send(receiver, b"", b"")
        turn.later(lambda: None)
        engine.data_received(ANSWER)
        engine.pause()
        turn.read_on()
        assert receiver.told == [200, (b"good", True)]
        assert ends.transport.is_reading()

    run(test)


def test_an_idle_connection_that_says_something_is_closed_before_anybody_takes_it() -> None:
    async def test(turn: LoopBatch, ends: Ends) -> None:
        engine = connection(turn, ends)
        turn.later(lambda: None)
        engine.data_received(b"surplus")
        assert engine.is_closed

    run(test)
