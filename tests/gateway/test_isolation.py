"""An exception of the gateway's own ends the request that it belongs to, with an answer and a log line, and no other."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from sage_inference.config.settings import InstanceSettings
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.selector import Selector
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.pool import Address, Pool
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.relay import exchange
from sage_inference.gateway.relay.coalescing import PAUSE_S, Coalescer
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.response import ResponseWriter
from sage_inference.gateway.stats import Stats
from sage_inference.types import EngineState
from sage_inference.wire.loop_batch import LoopBatch
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, ok, raw, sse
from tests.support.wire import Caller

STREAM = raw(sse('{"a":1}', '{"a":2}', "[DONE]") + b"0\r\n\r\n")


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: type[Exception]) -> None:
    original: Callable[..., Any] = getattr(owner, name)
    left = [error]

    def raising(*args: Any, **options: Any) -> Any:
        if left:
            raise left.pop()("a fault put there by a test")
        return original(*args, **options)

    monkeypatch.setattr(owner, name, raising)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Other tests may have set the level at which our loggers report."""
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def check_untouched(door: InProcess) -> None:
    """No slot is held, no engine is blamed, and the next request is served."""
    door.until(lambda running: running.gateway.in_flight == running.gateway.scheduler.queued == 0)
    states = door.ask(lambda running: [e.instance.state for e in running.gateway.engines.values()])
    assert states == [EngineState.READY] * len(states)
    with Caller(door.port) as caller:
        assert caller.chat().reply().status == 200


BEFORE_AN_ANSWER = {
    "the prompt is classified": (exchange, "classify"),
    "it is submitted": (Scheduler, "submit"),
    "a connection is taken": (Pool, "acquire"),
    "it is sent": (EngineConnection, "send"),
    "the answer's head comes": (Exchange, "engine_answers"),
    "the answer's body comes": (Exchange, "engine_sends"),
    "the answer's head is made": (Exchange, "_head"),
    "the key is checked": (Guard, "check"),
}


@pytest.mark.parametrize(("owner", "name"), BEFORE_AN_ANSWER.values(), ids=BEFORE_AN_ANSWER.keys())
def test_an_exception_before_an_answer_is_500_and_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    name: str,
) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as door, caplog.at_level(logging.ERROR):
        with Caller(door.port) as caller:
            fails_once(monkeypatch, owner, name, MemoryError)
            reply = caller.chat().reply()
        assert reply.status == 500
        assert reply.error["code"] == "internal_error"
        assert "its log has the traceback" in reply.error["message"]
        assert [record.exc_info is not None for record in errors_of(caplog)] == [True]
        check_untouched(door)


NOTED = {
    "how it ended": (Stats, "ended"),
    "its first byte": (Scheduler, "first_byte"),
    "what it took": (Exchange, "reported"),
}


@pytest.mark.parametrize(("owner", "name"), NOTED.values(), ids=NOTED.keys())
def test_an_exception_while_an_answers_end_is_noted_concerns_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, name: str
) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as door, caplog.at_level(logging.ERROR):
        fails_once(monkeypatch, owner, name, RecursionError)
        with Caller(door.port) as caller:
            assert caller.chat().reply().status == 200
        check_untouched(door)
        assert [record.exc_info is not None for record in errors_of(caplog)] == [True]
        assert "req-" in errors_of(caplog)[0].getMessage()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_usage_nested_without_end_is_no_usage(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    usage = '{"choices":[],"usage":{"prompt_tokens":1,"total_tokens":%s 1}}' % ("[" * 900)
    answer = raw(sse(usage, "[DONE]") + b"0\r\n\r\n") if stream else ok(usage.encode())
    with RogueEngine(answer, ok()) as engine, gateway(engine) as door, caplog.at_level(logging.ERROR):
        with Caller(door.port) as caller:
            assert caller.chat(stream=stream).reply().status == 200
        check_untouched(door)
        assert not errors_of(caplog)


@pytest.mark.parametrize(("name", "chunks"), [("send", 2), ("pass_on", 1)], ids=["send", "pass_on"])
def test_an_exception_within_a_stream_cuts_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, chunks: int
) -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse('{"a":1}'))
        wire.engine.go.wait(5)
        wire.send(sse(*['{"a":2}'] * chunks).partition(b"\r\n\r\n")[2])
        wire.wait_for_peer_to_leave()

    with RogueEngine(answer, STREAM) as engine, gateway(engine) as door, caplog.at_level(logging.ERROR):
        with Caller(door.port) as caller:
            caller.chat(stream=True)
            head = caller.head()
            assert head.status == 200
            assert b'"a":1' in caller.chunk()
            fails_once(monkeypatch, ResponseWriter, name, RuntimeError)
            engine.go.set()
            rest = caller.rest()
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"\r\n0\r\n\r\n")
        assert len(errors_of(caplog)) == 1
        check_untouched(door)


def test_an_exception_while_one_waiting_request_is_placed_does_not_strand_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hold(wire: Wire) -> None:
        wire.engine.go.wait(5)
        ok()(wire)

    with RogueEngine(hold) as engine:
        one = InstanceSettings(url=engine.url, name="e0", kind="mixed", max_concurrent_requests=1)
        with gateway(one) as door:
            callers = [Caller(door.port).chat() for _ in range(6)]
            door.until(lambda running: running.gateway.scheduler.queued == 5)
            fails_once(monkeypatch, Selector, "choose", ValueError)
            engine.go.set()
            statuses = sorted(caller.reply().status for caller in callers)
            assert statuses == [200] * 5 + [500]
            check_untouched(door)
            engine.go.clear()
            callers = [Caller(door.port).chat() for _ in range(6)]
            door.until(lambda running: running.gateway.scheduler.queued == 5)
            fails_once(monkeypatch, Pool, "acquire", ValueError)
            engine.go.set()
            statuses = sorted(caller.reply().status for caller in callers)
            assert statuses == [200] * 5 + [500]
            check_untouched(door)


def test_an_exception_once_a_connection_is_made_reaches_who_waits_for_it() -> None:
    async def main() -> list[Exception]:
        failures: list[Exception] = []
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        pool = Pool(address, LoopBatch(asyncio.get_running_loop().call_soon))

        def made(_: EngineConnection) -> None:
            raise LookupError

        pool.connect(made, lambda error: pytest.fail(str(error)), failures.append)
        async with asyncio.timeout(5):
            while not failures:
                await asyncio.sleep(0)
        server.close()
        return failures

    assert [type(error) for error in asyncio.run(main())] == [LookupError]


class FastStream:
    chunks = 0
    pauses_left = 1
    looked_at = 0.0

    def __init__(self, *, fails: bool) -> None:
        self.resumed = False
        self._fails = fails

    def pause(self) -> None: ...

    def resume(self) -> None:
        self.resumed = True
        if self._fails:
            raise LookupError


def test_a_paused_stream_that_fails_leaves_no_other_unread() -> None:
    async def main() -> list[bool]:
        coalescer = Coalescer(asyncio.get_running_loop(), lambda: 1000.0)
        streams = [FastStream(fails=n % 2 == 0) for n in range(6)]
        for stream in streams:
            stream.pauses_left = 2
            coalescer.look(stream)
        await asyncio.sleep(PAUSE_S * 2)
        return [stream.resumed for stream in streams]

    assert asyncio.run(main()) == [True] * 6


class Sink(asyncio.Transport):
    """Notes what is written, or fails at it."""

    def __init__(self, *, fails: bool) -> None:
        self.got = b""
        self.aborted = False
        self._fails = fails

    def write(self, data: Any) -> None:
        if self._fails:
            raise RuntimeError("gone")
        self.got += data

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def test_a_gathered_write_that_fails_loses_no_other() -> None:
    async def main() -> tuple[list[bytes], list[bool], int]:
        loop = asyncio.get_running_loop()
        crashes: list[Any] = []
        loop.set_exception_handler(lambda _, what: crashes.append(what))
        turn = LoopBatch(loop.call_soon)
        sinks = [Sink(fails=n in (0, 2, 3)) for n in range(6)]
        turn.later(lambda: None)
        for sink in sinks:
            turn.write(sink, b"said")
        for _ in range(10):
            await asyncio.sleep(0)
        return [sink.got for sink in sinks], [sink.aborted for sink in sinks], len(crashes)

    got, aborted, crashes = asyncio.run(main())
    assert got == [b"", b"said", b"", b"", b"said", b"said"]
    assert aborted == [True, False, True, True, False, False]
    assert crashes == 3


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "1e400", "null", '"1"', "[]"])
def test_whatever_vector_an_engine_answers_its_watcher_goes_on(number: str) -> None:
    def vector(wire: Wire) -> None:
        ok('{"data":[{"embedding":[' + number + ",1.0]}]}")(wire)

    with (
        RogueEngine(vector, probed=True) as one,
        RogueEngine(vector, probed=True) as other,
        gateway(one, other) as door,
    ):
        watchers = door.ask(lambda running: list(running.fleet._watchers.values()))
        assert len(watchers) == 2
        assert not any(watcher.done() for watcher in watchers)


def test_a_prompts_compressed_answer_is_read_though_none_was_asked_for() -> None:
    params = {"do_remote_prefill": True, "remote_block_ids": [[1]], "remote_engine_id": "p"}
    body = gzip.compress(json.dumps({"kv_transfer_params": params}).encode())
    with RogueEngine(ok(body, "content-encoding: gzip")) as p, RogueEngine(ok('{"choices":[]}')) as d:
        entries = [
            InstanceSettings(url=p.url, name="p", kind="prefilling"),
            InstanceSettings(url=d.url, name="d", kind="decoding"),
        ]
        with gateway(*entries) as door, Caller(door.port) as caller:
            assert caller.chat("accept-encoding: gzip").reply().status == 200
    assert b"\r\naccept-encoding: identity\r\n" in p.requests[0]
    assert b'"kv_transfer_params":{"do_remote_prefill": true' in d.requests[0]
    assert b"\r\naccept-encoding: gzip\r\n" in d.requests[0]
