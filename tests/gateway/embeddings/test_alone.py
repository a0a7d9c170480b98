"""An answer that concerns one caller alone is relayed as it comes, and every way in which that can go wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psutil
import pytest

from sage_inference.config.settings import InstanceSettings, SchedulingSettings, TimeoutSettings
from sage_inference.control_plane.instances.load import Placement
from tests.gateway.embeddings.callers import batcher
from tests.support.buffers import more_than_the_kernel_buffers
from tests.support.gateway import running_gateway
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw
from tests.support.wire import Caller, post

Door = Callable[..., AbstractContextManager[InProcess]]

MANY = 10_000  # numbers of a vector, so that an answer is not one packet
PIECE = 65536
OFFERED = more_than_the_kernel_buffers()


@pytest.fixture(params=["a call makes it", "its caller makes it", "a full call"])
def door(request: pytest.FixtureRequest) -> Door:
    """A gateway for requests of so many texts. Those with fewer than the least of a call line up first."""

    def opened(texts: int, *engines: Any, **settings: Any) -> AbstractContextManager[InProcess]:
        lines_up = request.param == "a call makes it"
        scheduling = SchedulingSettings(
            embedding_batch_size=texts if request.param == "a full call" else 32,
            min_embedding_batch_size=32 if lines_up else 1,
            max_embedding_wait_ms=0.0,
        )
        return gateway(*engines, scheduling=scheduling, **settings)

    return opened


def vectors(*texts: str) -> bytes:
    data = [
        {"object": "embedding", "index": place, "embedding": [float(len(text))] * MANY}
        for place, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


def asked(wire: Wire) -> list[str]:
    given = json.loads(wire.body)["input"]
    return [given] if isinstance(given, str) else given


def head(length: int, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
        status.encode(),
        length,
    )


def answering(wire: Wire) -> None:
    ok(vectors(*asked(wire)))(wire)


def in_two(wire: Wire) -> None:
    """Half of the answer, and the other half when the test lets it go on."""
    body = vectors(*asked(wire))
    wire.send(head(len(body)) + body[: len(body) // 2])
    wire.engine.go.wait(20)
    wire.send(body[len(body) // 2 :])


def half(then: str) -> Answer:
    def answer(wire: Wire) -> None:
        body = vectors(*asked(wire))
        raw(head(len(body)) + body[: len(body) // 2], then=then)(wire)

    return answer


def embed(*texts: str, **more: object) -> bytes:
    return post("/v1/embeddings", json.dumps({"model": "m", "input": list(texts), **more}).encode())


def nothing_left(g: InProcess) -> None:
    g.until(lambda r: r.gateway.in_flight == 0 and not r.gateway.embeddings.batcher.jobs)
    assert batcher(g).merge_queues == {}
    windows = [engine.window for engine in g.running.gateway.engines.values()]
    assert [(window.texts, window.tokens, window.batches) for window in windows] == [(0, 0, set())] * len(
        windows
    )


def one_slot(engine: RogueEngine) -> InstanceSettings:
    return InstanceSettings(url=engine.url, name="one", kind="mixed", max_concurrent_requests=1)


def begun(caller: Caller, size: int = 1000) -> None:
    """The first bytes of a good answer are here."""
    assert caller.head().status == 200
    caller.take(size)


def test_the_first_half_is_here_before_the_engine_sends_the_second(door: Door) -> None:
    with RogueEngine(in_two) as engine, door(2, engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a", "bb")).head()
        expected = vectors("a", "bb")
        assert reply.headers["content-length"] == str(len(expected))
        first = caller.take(len(expected) // 2)
        engine.go.set()
        assert first + caller.take(len(expected) - len(first)) == expected
        assert caller.send(embed("a")).reply().body == vectors("a")
        assert engine.connections == 1
        nothing_left(g)


@pytest.mark.parametrize("then", ["reset", "close"])
def test_an_engine_that_dies_midway_leaves_an_answer_that_is_seen_to_be_cut(door: Door, then: str) -> None:
    with (
        RogueEngine(half(then), answering) as engine,
        gateway(one_slot(engine)) as g,
        Caller(g.port) as caller,
    ):
        reply = caller.send(embed("a")).reply()
        assert (reply.status, reply.complete) == (200, False)
        assert reply.body == vectors("a")[: len(reply.body)]
        assert len(engine.requests) == 1  # once a byte was delivered it is never sent again
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.stats.cut) == 1
        with Caller(g.port) as other:  # its slot is free
            assert other.send(embed("b")).reply().status == 200


def test_an_engine_silent_midway_is_cut_and_told(door: Door) -> None:
    timeouts = TimeoutSettings(stream_idle_s=0.2)
    with RogueEngine(half("silent"), answering) as engine, gateway(one_slot(engine), timeouts=timeouts) as g:
        with Caller(g.port) as caller:
            assert not caller.send(embed("a")).reply().complete
        engine.left.get(timeout=5)
        nothing_left(g)


def test_a_caller_that_leaves_midway_frees_its_engine(door: Door) -> None:
    with RogueEngine(half("silent"), answering) as engine, gateway(one_slot(engine)) as g:
        with Caller(g.port) as caller:
            begun(caller.send(embed("a")))
        engine.left.get(timeout=1)
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == 1
        with Caller(g.port) as other:
            assert other.send(embed("b")).reply().status == 200


def piece(number: int) -> bytes:
    return number.to_bytes(8, "big") * (PIECE // 8)


def test_an_answer_that_was_held_up_arrives_whole_once_it_is_read(door: Door) -> None:
    pieces = more_than_the_kernel_buffers() // PIECE

    def flood(wire: Wire) -> None:
        wire.send(head(pieces * PIECE))
        for number in range(pieces):
            wire.send(piece(number))
        wire.engine.go.set()

    with RogueEngine(flood) as engine, door(1, engine) as g, Caller(g.port) as caller:
        assert caller.send(embed("a")).head().status == 200
        assert not engine.go.wait(1.0)  # stuck: nobody reads
        got, expected = hashlib.sha256(), hashlib.sha256()
        for number in range(pieces):
            expected.update(piece(number))
            got.update(caller.take(PIECE))
        assert got.digest() == expected.digest()
        nothing_left(g)


def test_answers_that_nobody_reads_cost_little_memory_and_hold_up_nobody_else() -> None:
    slow = 12

    def answer(wire: Wire) -> None:
        if asked(wire) == ["quick"]:
            answering(wire)
            return
        wire.send(head(OFFERED))
        wire.sock.settimeout(1.0)
        try:
            for number in range(OFFERED // PIECE):
                wire.send(piece(number))
        except TimeoutError:
            wire.engine.left.put(wire)

    with RogueEngine(answer) as engine, running_gateway(engine.url) as g:
        process = psutil.Process(g.process.pid)
        before = process.memory_info().rss
        callers = []
        for n in range(slow):  # one after the other: together they would share calls
            callers.append(Caller(g.port).send(embed(f"slow {n}")))
            begun(callers[-1])
        for _ in callers:
            engine.left.get(timeout=30)
        assert process.memory_info().rss - before < slow * (1 << 20)
        with Caller(g.port) as quick:
            assert quick.send(embed("quick")).reply().body == vectors("quick")
        for caller in callers:
            caller.sock.close()


def test_who_joins_before_the_first_byte_shares_the_call(door: Door) -> None:
    def answer(wire: Wire) -> None:
        wire.engine.go.wait(20)
        answering(wire)

    with RogueEngine(answer) as engine, door(2, engine) as g, Caller(g.port) as one, Caller(g.port) as other:
        one.send(embed("same", "mine"))
        engine.arrived.get(timeout=5)
        other.send(embed("same"))
        g.until(lambda r: r.gateway.embeddings.batcher.jobs == 2)
        engine.go.set()
        data = [json.loads(caller.reply().body)["data"] for caller in (one, other)]
        assert [len(each) for each in data] == [2, 1]
        assert data[0][0] == data[1][0]
        assert len(engine.requests) == 1
        nothing_left(g)


def test_who_comes_with_the_same_text_after_the_first_byte_gets_it_computed_anew(door: Door) -> None:
    with (
        RogueEngine(in_two, answering) as engine,
        door(2, engine) as g,
        Caller(g.port) as one,
        Caller(g.port) as other,
    ):
        begun(one.send(embed("same", "mine")), 0)
        assert other.send(embed("same")).reply().body == vectors("same")
        assert len(engine.requests) == 2
        engine.go.set()
        assert one.take(len(vectors("same", "mine"))) == vectors("same", "mine")
        nothing_left(g)


def _chunked(wire: Wire) -> None:
    body = vectors(*asked(wire))
    wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(body), 1000):
        wire.send(chunk(body[start : start + 1000]))
    wire.send(b"0\r\n\r\n")


def _until_the_end(wire: Wire) -> None:
    body = vectors(*asked(wire))
    raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + body, then="close")(wire)


@pytest.mark.parametrize("answer", [_chunked, _until_the_end], ids=["chunked", "until the end"])
def test_an_answer_whose_length_is_not_told_arrives_whole_and_costs_no_output_tokens(
    door: Door, answer: Answer
) -> None:
    with RogueEngine(answer) as engine, door(2, engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a", "b")).reply()
        assert (reply.complete, reply.body) == (True, vectors("a", "b"))
        nothing_left(g)


def test_a_chunked_answer_that_breaks_off_has_no_last_chunk() -> None:
    start = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    cut = raw(start + chunk(b'{"data": ['), then="close")
    with RogueEngine(cut) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a")).reply()
        assert (reply.complete, reply.body) == (False, b'{"data": [')
        nothing_left(g)


def _refusing(status: str, size: int = 200_000) -> Answer:
    """In more than one piece, and the rest of it late."""

    def answer(wire: Wire) -> None:
        wire.send(head(size, status) + b"x" * 1000)
        wire.engine.go.wait(0.2)
        wire.send(b"x" * (size - 1000))

    return answer


def _is_made_good_elsewhere(failure: Answer) -> None:
    with (
        RogueEngine(failure) as bad,
        RogueEngine(answering) as good,
        gateway(bad, good) as g,
        Caller(g.port) as caller,
    ):
        for n in range(4):
            assert caller.send(embed(f"text {n}")).reply().body == vectors(f"text {n}")
        assert bad.requests
        nothing_left(g)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "502 Bad Gateway"])
def test_a_refusal_in_pieces_is_made_good_elsewhere_before_the_caller_sees_a_byte(status: str) -> None:
    _is_made_good_elsewhere(_refusing(status))


@pytest.mark.parametrize(
    "failure", [raw(b"", then="reset"), raw(head(1000), then="close")], ids=["none", "head"]
)
def test_an_engine_that_dies_before_the_first_byte_of_a_body_is_replaced(failure: Answer) -> None:
    _is_made_good_elsewhere(failure)


def test_a_verdict_in_pieces_is_passed_on_whole(door: Door) -> None:
    with RogueEngine(_refusing("400 Bad Request")) as engine, door(1, engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a")).reply()
        assert (reply.status, reply.body) == (400, b"x" * 200_000)
        assert reply.headers["content-length"] == "200000"
        nothing_left(g)


def test_it_costs_no_tenant_a_turn_of_its_llm_requests(door: Door) -> None:
    with RogueEngine(answering) as engine, door(2, engine) as g, Caller(g.port) as caller:
        assert caller.send(embed("a", "b", user="x")).reply().status == 200
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.scheduler.tenants.of("x")) == 0


@pytest.mark.parametrize(
    ("answer", "outcome", "tokens"),
    [(answering, "done", 2), (_chunked, "done", 2), (half("close"), "cut", None)],
    ids=["whole", "chunked", "cut"],
)
def test_its_attempt_is_on_record(door: Door, answer: Answer, outcome: str, tokens: int | None) -> None:
    kept: list[Placement] = []
    with RogueEngine(answer) as engine, door(2, engine) as g, Caller(g.port) as caller:
        g.ask(lambda r: r.gateway.scheduler.watch(r.gateway.decisions.add, kept.append))
        caller.send(embed("a", "b")).reply()
        nothing_left(g)
        assert [(one.outcome, one.status) for one in kept] == [(outcome, 200)]
        told = [(one.usage.prompt_tokens, one.usage.completion_tokens) for one in kept if one.usage]
        assert told == ([] if tokens is None else [(tokens, 0)])


def test_pieces_of_an_answer_that_tells_no_usage_are_not_taken_for_tokens(door: Door) -> None:
    start = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"

    def answer(wire: Wire) -> None:
        for part in (start, chunk(b'{"data":'), chunk(b"[]}"), b"0\r\n\r\n"):
            wire.send(part)
            wire.engine.go.wait(0.1)

    kept: list[Placement] = []
    with RogueEngine(answer) as engine, door(1, engine) as g, Caller(g.port) as caller:
        g.ask(lambda r: r.gateway.scheduler.watch(r.gateway.decisions.add, kept.append))
        assert caller.send(embed("a")).reply().body == b'{"data":[]}'
        nothing_left(g)
        assert [one.usage for one in kept] == [None]


def test_what_an_engine_says_behind_its_whole_answer_reaches_nobody(door: Door) -> None:
    body = b'{"data":["first"]}'

    def twice(wire: Wire) -> None:
        wire.send(head(len(body)) + body)
        wire.engine.go.wait(5)
        wire.send(head(len(body)) + body)

    with RogueEngine(twice, answering) as engine, door(1, engine) as g, Caller(g.port) as caller:
        assert caller.send(embed("a")).reply().body == body
        pool = g.running.gateway.engines["e0"].pool
        assert pool.idle == 1
        engine.go.set()
        g.until(lambda r: pool.idle == 0)
        assert caller.send(embed("bb")).reply().body == vectors("bb")
        nothing_left(g)


def test_an_answer_ends_an_engines_time_of_being_busy(door: Door) -> None:
    busy = ok("{}", status="429 Too Many Requests")
    with RogueEngine(busy, busy, answering) as engine, door(1, engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a")).reply()
        assert reply.body == vectors("a")
        assert "x-sage-queue-ms" not in reply.headers  # it did not stand in line
        window = g.running.gateway.engines["e0"].window
        assert len(engine.requests) == 3
        assert (window.overloads, window.closed_until) == (0, 0.0)
