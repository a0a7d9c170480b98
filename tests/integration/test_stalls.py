"""Time in which the gateway did not run is nobody's silence: nothing is cut, refused or ejected for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, TimeoutSettings
from sage_inference.gateway.api.status import status_document
from sage_inference.gateway.metrics.page import exposition
from tests.gateway.embeddings.odd import OddEngine, with_bad
from tests.support.gateway import running_gateway
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import CHAT, Caller, Reply, chat, post

LIMIT_S = 0.8  # of every wait
STALL_S = 1.6
TIMEOUTS = {
    f"{wait}_s": LIMIT_S
    for wait in ("connect", "first_byte", "stream_idle", "header", "body", "keep_alive", "queue")
}
# Shorter than the stall, and long enough for an engine on a busy machine.
HEALTH = {"interval_s": 0.1, "timeout_s": LIMIT_S}


class Engine(RogueEngine):
    """Waits half a second for "slow", and for ``go`` for "held"; a "long" stream takes over two seconds."""

    def __init__(self, streams: threading.Event | None = None) -> None:
        super().__init__(self.respond, model="m")
        self.streams = streams or threading.Event()

    def respond(self, wire: Wire) -> None:
        if b"held" in wire.body:
            self.go.wait(30)
        elif b"slow" in wire.body:
            time.sleep(0.5)
        if b'"stream":true' not in wire.body.replace(b" ", b""):
            ok()(wire)
            return
        wire.send(sse("0"))
        self.streams.set()
        for number in range(1, 24 if b"long" in wire.body else 2):
            time.sleep(0.1)
            wire.send(chunk(b"data: %d\n\n" % number))
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@contextlib.contextmanager
def work(port: int, streams: threading.Event) -> Iterator[dict[str, Callable[[], Reply]]]:
    """A request in each phase. What is returned are functions that wait for the answers."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        callers = {
            name: stack.enter_context(Caller(port)) for name in ("idle", "stream", "slow", "upload", "head")
        }
        assert callers["idle"].chat().reply().status == 200
        upload = post(CHAT, chat(model="m", content="x" * 2000))
        callers["head"].send(upload[:20])
        callers["upload"].send(upload[:500])
        answers: dict[str, Future[Reply]] = {}
        callers["stream"].chat(stream=True, content="long")
        answers["stream"] = pool.submit(callers["stream"].reply)
        assert streams.wait(10)
        callers["slow"].chat(content="slow")
        answers["slow"] = pool.submit(callers["slow"].reply)

        def rest(name: str, sent: int) -> Callable[[], Reply]:
            return lambda: callers[name].send(upload[sent:]).reply()

        yield {  # those first that have to do something to go on
            "upload": rest("upload", 500),
            "head": rest("head", 20),
            "idle": lambda: callers["idle"].chat().reply(),
            **{name: answer.result for name, answer in answers.items()},
        }


def test_a_suspended_gateway_cuts_and_ejects_nobody() -> None:
    streams = threading.Event()
    with Engine(streams) as one, Engine(streams) as other:
        config = {"timeouts": TIMEOUTS, "health": HEALTH}
        with running_gateway(one.url, other.url, config=config) as process:
            with work(process.port, streams) as answers:
                os.kill(process.process.pid, signal.SIGSTOP)
                time.sleep(STALL_S)  # the suspension itself
                os.kill(process.process.pid, signal.SIGCONT)
                replies = {name: answer() for name, answer in answers.items()}
            assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(replies, 200)
            assert replies["stream"].complete
            assert b"[DONE]" in replies["stream"].body
            process.wait_instances()
            assert "ejected" not in process.log()
            assert "this process did not run for 1." in process.log()


def test_a_gateway_suspended_while_it_drains_still_gives_streams_their_time() -> None:
    streams = threading.Event()
    with Engine(streams) as engine:
        with running_gateway(engine.url, config={"timeouts": {"drain_s": 1}}) as process:
            with Caller(process.port) as caller:
                caller.chat(stream=True, content="long")
                assert streams.wait(10)
                os.kill(process.process.pid, signal.SIGTERM)
                process.wait_notified("STOPPING=1")
                time.sleep(0.4)  # its drain has begun
                os.kill(process.process.pid, signal.SIGSTOP)
                time.sleep(STALL_S)  # the suspension itself
                os.kill(process.process.pid, signal.SIGCONT)
                reply = caller.reply()
            assert reply.complete
            assert b"[DONE]" in reply.body
            assert process.process.wait(20) == 0


def test_a_loop_that_is_held_up_cuts_and_ejects_nobody() -> None:
    streams = threading.Event()
    with Engine(streams) as one, Engine(streams) as other:
        with gateway(
            one,
            other,
            timeouts=TimeoutSettings(**TIMEOUTS),
            health=HealthSettings(interval_s=0.1, timeout_s=LIMIT_S),
        ) as g:
            with work(g.port, streams) as answers:
                g.ask(lambda _: time.sleep(STALL_S))  # the stall itself
                replies = {name: answer() for name, answer in answers.items()}
            assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(replies, 200)
            assert b"[DONE]" in replies["stream"].body
            assert (
                g.ask(lambda r: [e.instance.load.lost_at < 0 for e in r.gateway.engines.values()])
                == [True] * 2
            )


def test_a_request_that_waits_in_the_queue_keeps_its_time() -> None:
    with Engine() as engine:
        only = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with gateway(only, timeouts=TimeoutSettings(queue_s=LIMIT_S)) as g:
            with Caller(g.port) as first, Caller(g.port) as second:
                first.chat(content="held")
                g.until(lambda r: r.gateway.in_flight == 1)
                second.chat()
                g.until(lambda r: r.gateway.scheduler.queued == 1)
                g.ask(lambda _: time.sleep(STALL_S))  # the stall itself
                time.sleep(0.2)  # in which its time would be seen to be up
                engine.go.set()
                assert [c.reply().status for c in (first, second)] == [200, 200]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_stall_teaches_nothing_about_an_engine(stream: bool) -> None:
    with Engine() as engine:
        with gateway(InstanceSettings(url=engine.url, name="e", kind="llm")) as g, Caller(g.port) as caller:
            assert caller.chat(stream=stream).reply().status == 200
            g.until(lambda r: r.gateway.in_flight == 0)

            def known() -> tuple[object, ...]:
                def look(r: object) -> tuple[object, ...]:
                    e = r.gateway.engines["e"]  # type: ignore[attr-defined]
                    load = e.instance.load
                    return (load.busy_ms, load.busy_tokens, sum((e.ttft + e.ttfb).counts))

                return g.ask(look)

            before = known()
            caller.chat(content="slow", stream=stream)
            g.until(lambda r: r.gateway.in_flight == 1)
            g.ask(lambda _: time.sleep(1.5))  # the stall itself
            assert caller.reply().status == 200
            g.until(lambda r: r.gateway.in_flight == 0)
            assert known() == before
            assert caller.chat(stream=stream).reply().status == 200  # and what comes after it does
            g.until(lambda r: r.gateway.in_flight == 0)
            assert known() != before


def test_a_suspension_teaches_nothing_about_an_engine_of_merged_texts() -> None:
    """Its answers lie there when the gateway goes on: they are read before the loop ticks."""
    merged, right = threading.Event(), threading.Event()

    def write(texts: list[str], base64: bool) -> bytes:
        if len(texts) > 1:
            merged.set()
            right.wait(20)
        return with_bad(None)(texts, base64)

    engine = OddEngine()
    with engine, running_gateway(engine.url) as process, ThreadPoolExecutor(6) as pool:

        def observed() -> list[str]:
            with process.client(headers=process.admin) as client:
                lines = client.get("/metrics").text.splitlines()
            return [line for line in lines if line.startswith("sage_time_to_first_byte_seconds_count")]

        engine.reset()
        engine.write = write
        engine.go.clear()
        with contextlib.ExitStack() as stack:
            callers = [stack.enter_context(Caller(process.port)) for _ in range(6)]
            for number, caller in enumerate(callers):
                body = b'{"model":"m","input":"text %d"}' % number
                caller.send(post("/v1/embeddings", body, "content-type: application/json"))
            deadline = time.monotonic() + 10
            while process.status()["embeddings"]["in_flight"] < len(callers):
                assert time.monotonic() < deadline
            engine.go.set()  # those that went alone are answered, the others go together
            assert merged.wait(10)

            def all_but_merged_are_answered() -> bool:
                sizes = [len(texts) for texts in list(engine.calls)]
                waiting = sum(size for size in sizes if size > 1)
                return sum(sizes) == len(callers) and process.status()["embeddings"]["in_flight"] == waiting

            while not all_but_merged_are_answered():
                assert time.monotonic() < deadline + 10
            before = observed()
            os.kill(process.process.pid, signal.SIGSTOP)
            right.set()
            time.sleep(STALL_S)  # the suspension itself
            os.kill(process.process.pid, signal.SIGCONT)
            replies = list(pool.map(lambda caller: caller.reply(), callers))
        assert [reply.status for reply in replies] == [200] * len(callers)
        assert observed() == before


def test_uptime_does_not_follow_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine() as engine, gateway(engine) as g:
        for set_to in (0.0, 4e9):
            monkeypatch.setattr(time, "time", lambda set_to=set_to: set_to)
            uptime_s = g.ask(lambda r: status_document(r.gateway)["uptime_s"])
            assert 0 <= uptime_s < 60
            assert g.ask(lambda r: f"sage_uptime_seconds {int(r.gateway.uptime_s)}" in exposition(r.gateway))


def test_what_is_done_once_a_second_goes_on_after_an_exception() -> None:
    calls: list[float] = []

    def fails() -> None:
        calls.append(time.monotonic())
        raise RuntimeError("can't start new thread")

    with Engine() as engine, gateway(engine) as g:
        g.ask(lambda r: setattr(r, "hooks", replace(r.hooks, watchdog=fails)))
        g.until(lambda _: len(calls) >= 2)
