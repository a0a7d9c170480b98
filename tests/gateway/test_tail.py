"""The end of a stream shows its usage and its outcome whatever the sizes of its pieces, and an open stream keeps little."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.stream_budgets import UnwatchedBudget, WatchedBudget
from sage_inference.gateway.relay.tail import MOST_PIECES, TAIL_BYTES, delta_end, text_of, trim
from sage_inference.wire.chunks import chunk
from sage_inference.wire.message import Data
from tests.fuzz.house import CallerEnd, EngineEnd, House
from tests.support.rogue import chunk as framed

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str = "a", finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795466982, "model": "m"}
    return event({**document, "choices": [{**choice, "token_ids": None}], **more})


ROLE = delta(prompt_token_ids=None)  # in vLLM's first event there is more behind the choices
USED = event(
    {"choices": [], "usage": {"prompt_tokens": 70, "total_tokens": 73, "completion_tokens": 3}, "model": "m"}
)
TEXT = [ROLE, *(delta(f"word {n}") for n in range(12))]


class Stream:
    """One streamed answer through a gateway without sockets. Each piece is read by itself."""

    def __init__(self, house: House, request_id: str) -> None:
        self.house, self.request_id = house, request_id
        body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", f"x-request-id: {request_id}"]
        lines += [f"content-length: {len(body)}", "", ""]
        house.begin(self._arrived)
        self.caller: CallerEnd = house.call()
        self.engine: EngineEnd | None = None
        self.caller.transport.feed("\r\n".join(lines).encode() + body)
        self._settle()

    def _arrived(self, engine: EngineEnd, request: object) -> None:
        self.engine = engine

    def _settle(self) -> None:
        self.house.loop.run_until_complete(self.house.loop.settle())

    def read(self, *pieces: bytes) -> None:
        self.feed(HEAD, *map(framed, pieces))

    def feed(self, *data: bytes) -> None:
        assert self.engine is not None
        self.engine.transport.feed(*data)
        self._settle()

    def ends(self) -> dict[str, Any]:
        """The attempt as it was noted, after a regular end."""
        self.feed(LAST)
        [attempt] = self.house.running.gateway.decisions.documents(self.request_id)
        return attempt

    def breaks(self) -> list[Any]:
        """The data of the events that the caller got of an answer that broke off."""
        assert self.engine is not None
        self.engine.transport.end(ConnectionResetError())
        self._settle()
        return [each.data for each in SSEDecoder().iter_bytes(iter([self.body]))]

    @property
    def body(self) -> bytes:
        rest, found = bytes(self.caller.transport.sent).partition(b"\r\n\r\n")[2], b""
        while rest:
            line, _, rest = rest.partition(b"\r\n")
            size = int(line, 16)
            found, rest = found + rest[:size], rest[size + 2 :]
        return found

    @property
    def kept(self) -> list[Data]:
        return self.caller.protocol.running.delivery._tail  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    gateway = house.running.gateway
    gateway.scheduler.ledger.reads_all_usage = True
    gateway.coalescer.clock = itertools.count(1).__next__  # no stream is so fast that its pieces are joined
    yield house
    house.close()


@pytest.fixture
def stream(house: House, request: pytest.FixtureRequest) -> Stream:
    return Stream(house, f"tail-{hash(request.node.name) & 0xFFFFFFFF}")


def parts(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


CUTS: dict[str, Any] = {
    "one byte": lambda events: parts(b"".join(events), 1),
    "50 bytes": lambda events: parts(b"".join(events), 50),
    "1 KiB": lambda events: parts(b"".join(events), 1024),
    "64 KiB": lambda events: parts(b"".join([*events[:1], delta("x" * 100_000), *events[1:]]), 65536),
    "one event": list,
    "two events": lambda events: [b"".join(events[at : at + 2]) for at in range(0, len(events), 2)],
    "the last events in bytes": lambda events: [*events[:-3], *parts(b"".join(events[-3:]), 1)],
    "the last events in two": lambda events: [
        *events[:-3],
        *(part for last in events[-3:] for part in (last[:9], last[9:])),
    ],
    "events that end in the next piece": lambda events: parts(b"".join(events), len(events[1]) + 7),
}


@pytest.mark.parametrize(("finish", "outcome"), [("stop", "done"), ("abort", "aborted")])
@pytest.mark.parametrize("cut", CUTS)
def test_usage_and_outcome_are_read_from_pieces_of_any_size(
    stream: Stream, cut: str, finish: str, outcome: str
) -> None:
    pieces = CUTS[cut]([*TEXT, delta("", finish), USED, DONE])
    stream.read(*pieces)
    attempt = stream.ends()
    assert stream.body == b"".join(pieces)
    assert (attempt["prompt_tokens"], attempt["completion_tokens"]) == (70, 3)
    assert attempt["outcome"] == outcome


@pytest.mark.parametrize("size", [1, 50, 1024, 65536])
@pytest.mark.parametrize("at", [3, 60, -40, -3])
def test_an_event_that_was_sent_in_part_reports_the_error_whatever_the_size_of_its_pieces(
    stream: Stream, size: int, at: int
) -> None:
    final = delta("the last", "stop")[:at]
    stream.read(*TEXT, *parts(final, size))
    datas = stream.breaks()
    assert [json.loads(data) for data in datas[: len(TEXT)]] == [json.loads(each[6:]) for each in TEXT]
    assert all("error" in json.loads(data) for data in datas[len(TEXT) :])
    assert len(datas) > len(TEXT)


def test_an_open_stream_keeps_no_piece_but_one_that_all_streams_share(stream: Stream) -> None:
    stream.read(*TEXT)
    [kept] = stream.kept
    assert json.loads(text_of([kept], True)[6:]) == {"choices": [{"finish_reason": None, "token_ids": None}]}
    stream.feed(*(framed(delta(f"more {n}")) for n in range(100)))
    stream.feed(framed(delta("two")) + framed(delta("at once")))
    assert [id(each) for each in stream.kept] == [id(kept)]
    stream.feed(framed(delta("", "stop")))
    assert len(stream.kept) == 2
    assert stream.ends()["outcome"] == "done"
    other = Stream(stream.house, "another")
    other.read(*TEXT)
    assert [id(each) for each in other.kept] == [id(kept)]


SPACED = [each.replace(b'":', b'": ').replace(b',"', b', "') for each in TEXT]
OTHERS: dict[str, tuple[list[bytes], int]] = {
    "with spaces": (SPACED, 1),
    "with usage in each event": ([delta(str(n), usage={"completion_tokens": n}) for n in range(100)], 20),
    "with times in each event": ([delta(str(n), timings={"ms": n}) for n in range(100)], 20),
    "without finish reasons": ([event({"choices": [{"delta": {"content": "x" * 200}}]})] * 100, 20),
    "long ones": ([event({"choices": [{"text": "x" * 2000}]})] * 100, 9),
    "tiny ones": ([b"data:1\n\n"] * 1000, MOST_PIECES + 9),
}


@pytest.mark.parametrize("case", OTHERS)
def test_streams_of_other_events_keep_few_pieces(stream: Stream, case: str) -> None:
    events, most = OTHERS[case]
    stream.read(*events)
    assert len(stream.kept) <= most
    stream.feed(framed(delta("", "abort") + USED))
    attempt = stream.ends()
    assert (attempt["prompt_tokens"], attempt["outcome"]) == (70, "aborted")


def test_a_choice_that_was_given_up_is_seen_behind_events_of_another(stream: Stream) -> None:
    stream.read(*TEXT, delta("", "abort"), delta("b", index=1), delta("c", "stop", index=1), DONE)
    assert stream.ends()["outcome"] == "aborted"


def test_a_stream_that_ends_without_its_last_event_is_cut_also_where_few_pieces_are_kept(
    stream: Stream,
) -> None:
    stream.read(*TEXT)
    assert stream.ends()["outcome"] == "cut"


def test_gaps_between_chunks_are_noted_only_while_embeddings_come(stream: Stream) -> None:
    gateway = stream.house.running.gateway
    place = stream.caller.protocol.running.place  # type: ignore[attr-defined]
    gpu = place.shared
    gpu.watches = False
    stream.read(*TEXT)
    watched = gpu.streams._budgets
    assert (type(watched[place]), watched[place].tokens) == (UnwatchedBudget, len(TEXT) - 2)
    call = Placement(place.instance, 10, gateway.clock())
    gpu.began(call, False)
    stream.feed(*map(framed, TEXT[:4]))
    assert (type(watched[place]), watched[place].tokens) == (WatchedBudget, len(TEXT) + 2)
    assert 0 < watched[place].spent_s < 60
    gpu.ended(call, False, gateway.clock())
    gpu.watches = False
    stream.feed(*map(framed, TEXT[:4]))
    call = Placement(place.instance, 10, gateway.clock())
    gpu.began(call, False)  # the gap in which nobody watched is none
    stream.feed(*map(framed, TEXT[:4]))
    assert watched[place].tokens == len(TEXT) + 5
    gpu.ended(call, False, gateway.clock())


NULL = b'"finish_reason":null'
ENDS: dict[str, tuple[bytes, bytes, bytes]] = {
    "vLLM": (delta(), delta(), b'"finish_reason":null,"token_ids":null}]}\n\n\r\n'),
    "vLLM's first": (ROLE, ROLE, b'"finish_reason":null,"token_ids":null}],"prompt_token_ids":null}\n\n\r\n'),
    "SGLang": (
        delta(usage=None),
        delta(usage=None),
        b'"finish_reason":null,"token_ids":null}],"usage":null}\n\n\r\n',
    ),
    "behind the first": (delta(), ROLE + delta(), b'"finish_reason":null,"token_ids":null}]}\n\n\r\n'),
    "a finished choice": (delta("", "stop"), delta("", "stop"), b""),
    "behind a finished choice": (delta(), delta("", "stop") + delta(), b""),
    "usage": (delta(usage={"prompt_tokens": 1}), delta(usage={"prompt_tokens": 1}), b""),
    "behind an error": (delta(), event({"error": {"message": "no"}}) + delta(), b""),
    "a part": (delta()[:-1], delta()[:-1], b""),
    "the rest of an event": (delta()[150:], delta(), b""),
    "two choices": (
        delta().replace(b"}]}", b'},{"index":1,' + NULL + b"}]}"),
        delta().replace(b"}]}", b'},{"index":1,' + NULL + b"}]}"),
        b"",
    ),
    "llama.cpp": (
        b'data: {"choices":[{' + NULL + b',"index":0,"delta":{"content":"a"}}],"created":1}\n\n',
        b'data: {"choices":[{' + NULL + b',"index":0,"delta":{"content":"a"}}],"created":1}\n\n',
        b"",
    ),
    "a text with a finish reason": (delta('"finish_reason":null}]}\n\n', "stop"),) * 2 + (b"",),
    "no event": (NULL + b"\n\n", NULL + b"\n\n", b""),
    "nothing": (b"", b"", b""),
}


@pytest.mark.parametrize(("piece", "text", "end"), ENDS.values(), ids=ENDS)
def test_a_delta_is_known_by_its_end(piece: bytes, text: bytes, end: bytes) -> None:
    assert delta_end(piece, text) == end


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("sizes", [[1], [50], [1024], [65536], [1, 50, 200, 1024, 65536], [200, 1, 1, 1]])
def test_a_tail_has_its_bytes_and_few_pieces(sizes: Sequence[int], chunked: bool) -> None:
    rng = random.Random(repr(sizes))
    pieces: list[Data] = []
    body, complete = b"", True
    for _ in range(300 if max(sizes) < 2000 else 20):
        piece = rng.randbytes(rng.choice(sizes))
        body += piece
        pieces.append(chunk(piece) if chunked else piece)
        complete = not trim(pieces, chunked) and complete
        kept = text_of(pieces, chunked)
        assert body.endswith(kept)
        assert len(kept) >= min(TAIL_BYTES, len(body))
        assert len(kept) < TAIL_BYTES + max(TAIL_BYTES, *sizes, 0)
        assert len(pieces) <= MOST_PIECES
        assert complete == (kept == body)
