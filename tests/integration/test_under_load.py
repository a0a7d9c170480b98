"""The real process under load: SIGTERM breaks no stream, SIGHUP fails no request."""

from __future__ import annotations

import json
import queue
import signal
import threading

from tests.support.gateway import Gateway, running_gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import Caller

STREAMS = 200


def stream_until_told(wire: Wire) -> None:
    wire.send(sse("begin"))
    wire.engine.go.wait(60)
    wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def test_a_sigterm_lets_two_hundred_streams_finish() -> None:
    with RogueEngine(stream_until_told) as engine, running_gateway(engine.url) as gateway:
        callers = [Caller(gateway.port, 60).chat(stream=True) for _ in range(STREAMS)]
        for caller in callers:
            assert caller.head().status == 200
            assert caller.chunk() == b"data: begin\n\n"
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_notified("STOPPING=1")
        engine.go.set()
        assert [caller.chunk() for caller in callers] == [b"data: [DONE]\n\n"] * STREAMS
        assert [caller.chunk() for caller in callers] == [b""] * STREAMS
        assert gateway.process.wait(20) == 0


def reload_with(gateway: Gateway, *urls: str) -> None:
    """Write the instances down, send SIGHUP, and wait until it was taken over."""
    document = {"instances": [{"url": url} for url in urls]}
    (gateway.home / "config.yaml").write_text(json.dumps(document))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_notified("READY=1")


def test_sighups_that_add_and_remove_an_instance_fail_no_request() -> None:
    statuses: queue.Queue[int] = queue.Queue()
    over = threading.Event()

    def call(port: int) -> None:
        with Caller(port) as caller:
            while not over.is_set():
                statuses.put(caller.chat().reply().status)

    with RogueEngine(ok("a")) as a, RogueEngine(ok("b")) as b, running_gateway(a.url) as gateway:
        threads = [threading.Thread(target=call, args=(gateway.port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        seen: set[int] = set()
        try:
            for urls in ((a.url, b.url), (b.url,), (a.url,), (a.url, b.url)) * 2:
                reload_with(gateway, *urls)
                seen |= {statuses.get(timeout=20) for _ in range(30)}
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
        assert seen == {200}
        assert b.requests
