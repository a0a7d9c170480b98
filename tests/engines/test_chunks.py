"""A chunk that comes alone and whole goes on as it came; however a stream is cut, its bytes are those that were sent."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.parser_events import ParserEvents
from sage_inference.engines.receiver import Broken
from sage_inference.wire.chunks import CHUNK_HEADS
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.message import Data, ResponseHead

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LINES = (b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n")
# Texts that look like framing themselves.
TEXTS = (b"1", b"1\r\n1", b"\r\n", b"data: x\n\n", b"0\r\n\r\n", b"x" * 10, b"y" * 300, b"1\r\n1\r\n1\r\n")


class Sink(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None: ...


class Taker:
    """Asks for whole chunks once it has a first piece; ``pieces`` are the others."""

    def __init__(self, feeding: ParserEvents | None = None) -> None:
        self.idle: list[EngineConnection] = []
        self.connection = EngineConnection(
            self.idle.append, lambda lost: None, feeding or ParserEvents(), LoopBatch(lambda end: None)
        )
        self.connection.connection_made(Sink())
        self.got: list[bytes] = []
        self.whole: list[bytes] = []
        self.ended = self.failed = False

    def send(self) -> None:
        self.got, self.whole, self.ended = [], [], False
        self.connection.send(self, b"", b"")

    def read(self, *reads: bytes) -> None:
        for data in reads:
            self.connection.data_received(data)

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None: ...

    def engine_sends(self, piece: Data, end: bool) -> None:
        if not self.got:
            self.connection.pass_whole_chunks(self)
        self.got.append(bytes(piece))
        self.ended = end

    def pass_on(self, chunk: bytes) -> None:
        self.whole.append(chunk)
        line, _, rest = chunk.partition(b"\r\n")
        text = rest[:-2]
        assert (int(line, 16), rest[-2:]) == (len(text), b"\r\n")
        self.got.append(text)

    def broke(self, error: Exception) -> None:
        raise error

    def engine_failed(self, how: Broken, detail: str) -> None:
        self.failed = True

    def engine_is_silent(self) -> None: ...


def framed(text: bytes, line: bytes = LINES[0]) -> bytes:
    return line % len(text) + text + b"\r\n"


FIRST = HEAD + framed(b"first")


def test_only_what_is_one_whole_chunk_begins_as_one() -> None:
    for size in range(1, 5000):
        small, capital = (line % size + b"x" * size + b"\r\n" for line in LINES[:2])
        assert small.startswith(CHUNK_HEADS[len(small)])
        assert capital.startswith(CHUNK_HEADS[len(capital)])
        assert all(int(head, 16) == size for head in CHUNK_HEADS[len(small)])
    assert not any(CHUNK_HEADS[length] for length in (0, 1, 4, 5, 21, 1 << 20))


def test_whole_chunks_pass_the_parser_by_and_the_connection_serves_again() -> None:
    taker = Taker()
    for _ in range(2):
        taker.send()
        taker.read(FIRST, framed(b"a"), framed(b"b" * 10, LINES[1]), framed(b"c") + b"0\r\n\r\n")
        assert taker.whole == [framed(b"a"), framed(b"b" * 10, LINES[1])]
        assert (b"".join(taker.got), taker.ended) == (b"first" + b"a" + b"b" * 10 + b"c", True)
        assert taker.idle.pop() is taker.connection


def test_the_next_whole_chunk_passes_again_after_one_in_parts_or_several_at_once() -> None:
    taker = Taker()
    taker.send()
    one, two = framed(b"one"), framed(b"two")
    taker.read(FIRST, one[:4], one[4:], two, one + two, two, one + two[:3], two[3:], one)
    assert taker.whole == [two, two, one]
    assert b"".join(taker.got) == b"first" + b"one" + b"two" + b"onetwo" + b"two" + b"onetwo" + b"one"


def test_streams_side_by_side_know_each_where_its_own_chunks_end() -> None:
    feeding = ParserEvents()
    one, other = Taker(feeding), Taker(feeding)
    for taker in (one, other):
        taker.send()
        taker.read(FIRST)
    chunk = framed(b"x" * 20)
    one.read(chunk[:8])
    other.read(chunk, chunk + chunk, chunk)
    one.read(framed(b"y"))  # all within its chunk
    one.read(chunk[14:], chunk)
    assert (one.whole, other.whole) == ([chunk], [chunk, chunk])
    assert b"".join(one.got) == b"first" + b"x" * 4 + framed(b"y") + chunk[14:-2] + b"x" * 20
    assert b"".join(other.got) == b"first" + b"x" * 80


@pytest.mark.parametrize(
    ("before", "looks"),
    [
        (b"10\r\n", framed(b"x")),  # in the midst of a longer one
        (b"1\r\n1\r\n1\r\n", framed(b"x")),  # behind the line of the next one
        (framed(b"x") + b"1", framed(b"x")),  # within that line: it goes on, and says 11
    ],
)
def test_what_looks_like_a_chunk_within_another_is_none(before: bytes, looks: bytes) -> None:
    taker = Taker()
    taker.send()
    taker.read(FIRST, before, looks)
    assert not taker.whole


@pytest.mark.parametrize(
    "bad", [b"2\r\nokok", b"+2\r\nok\r\n", b"0_2\r\nok\r\n", b"2\nok\r\n\r\n", b"2\r\nok\n\n"]
)
def test_what_is_no_chunk_fails_as_before(bad: bytes) -> None:
    taker = Taker()
    taker.send()
    taker.read(FIRST, framed(b"good"), bad, framed(b"good"))
    assert taker.failed
    assert taker.connection.is_closed
    assert taker.whole == [framed(b"good")]


texts = st.sampled_from(TEXTS) | st.binary(min_size=1, max_size=40)


@given(st.lists(st.tuples(texts, st.sampled_from(LINES)), max_size=12), st.data())
@example([(b"1", LINES[0])] * 3, None)
def test_however_it_is_cut_the_bytes_are_those_that_were_sent(
    chunks: list[tuple[bytes, bytes]], data: st.DataObject | None
) -> None:
    stream = [HEAD, framed(b"first"), *(framed(*chunk) for chunk in chunks), b"0\r\n\r\n"]
    whole = b"".join(stream)
    ends = list(itertools.accumulate(map(len, stream)))
    cuts: set[int] = set(ends)
    if data is not None:
        cuts = data.draw(st.sets(st.sampled_from(ends) | st.integers(1, len(whole))))
    at = sorted({0, *cuts, len(whole)})
    taker = Taker()
    taker.send()
    taker.read(*(whole[a:b] for a, b in itertools.pairwise(at)))
    assert b"".join(taker.got) == b"first" + b"".join(text for text, _ in chunks)
    assert taker.ended
    assert not taker.failed
