"""What one turn of the event loop gathers, and in which order it goes out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from sage_inference.engines.turn import Turn
from sage_inference.server import new_event_loop

Log = list[str]


class Reader:
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


def run(test: Callable[[Turn, Reader], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            near, far = (stack.enter_context(end) for end in socket.socketpair())
            far.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
            await test(Turn(loop.call_soon), Reader(transport, far))
            transport.abort()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_a_write_alone_goes_out_at_once() -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        turn.write(reader.transport, b"one")
        assert reader.got() == b"one"

    run(test)


def test_writes_wait_for_the_end_of_a_turn_that_has_notes_and_go_before_them_in_order() -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        seen: list[bytes] = []
        turn.later(lambda text: seen.append(text + reader.got()), b"note: ")
        turn.write(reader.transport, b"one ")
        turn.write(reader.transport, b"two")
        assert (reader.got(), seen) == (b"", [])
        await asyncio.sleep(0)
        assert seen == [b"note: one two"]
        turn.write(reader.transport, b"at once")
        assert reader.got() == b"at once"

    run(test)


def test_notes_are_made_in_order_and_what_they_write_and_note_is_not_forgotten() -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        log: Log = []

        def first() -> None:
            log.append("first")
            turn.write(reader.transport, b"1")
            turn.later(log.append, "third")

        turn.later(first)
        turn.later(log.append, "second")
        await asyncio.sleep(0)
        assert (log, reader.got()) == (["first", "second", "third"], b"1")

    run(test)


def test_a_note_that_fails_takes_no_other_with_it() -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        log: Log = []
        crashes: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: crashes.append(what["exception"]))

        def fails() -> None:
            turn.write(reader.transport, b"said")
            raise LookupError

        for note in (fails, fails, lambda: log.append("made")):
            turn.later(note)
        while not log:
            await asyncio.sleep(0)
        assert [type(crash) for crash in crashes] == [LookupError, LookupError]
        assert reader.got() == b"saidsaid"

    run(test)


@pytest.mark.parametrize("how", ["flush", "writelines", "close"])
def test_what_was_gathered_goes_before_what_cannot_wait_and_the_notes_stay(how: str) -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        log: Log = []
        turn.later(log.append, "made")
        turn.write(reader.transport, b"one")
        if how == "flush":
            turn.flush()
        elif how == "writelines":
            turn.writelines(reader.transport, (b" two", b" three"))
        else:
            turn.close(reader.transport)
            assert reader.transport.is_closing()
        assert (reader.got(), log) == (b"one two three" if how == "writelines" else b"one", [])
        await asyncio.sleep(0)
        assert (reader.got(), log) == (b"", ["made"])

    run(test)


def test_what_is_written_to_a_transport_that_closes_first_is_dropped() -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        log: Log = []
        turn.later(log.append, "made")
        turn.write(reader.transport, b"one")
        reader.transport.abort()
        await asyncio.sleep(0)
        assert (reader.got(), log) == (b"", ["made"])

    run(test)


@pytest.mark.parametrize(("size", "count"), [(65537, 1), (32768, 9)])
def test_much_is_not_gathered_so_that_a_slow_reader_is_noticed_in_time(size: int, count: int) -> None:
    async def test(turn: Turn, reader: Reader) -> None:
        turn.later(lambda: None)
        turn.write(reader.transport, b"first ")
        for _ in range(count):
            turn.write(reader.transport, b"x" * size)
        assert reader.got().startswith(b"first xxx")

    run(test)
