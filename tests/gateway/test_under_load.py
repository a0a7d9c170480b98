"""Stopping and reloading while requests run: nothing that was begun is broken."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace

from sage_inference.config.settings import InstanceSettings
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import Caller

STREAMS = 200


def stream_until_told(wire: Wire) -> None:
    wire.send(sse("begin"))
    wire.engine.go.wait(60)
    wire.send(chunk(b"data: end\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def test_stop_lets_two_hundred_streams_finish() -> None:
    with RogueEngine(stream_until_told) as engine, gateway(engine) as g:
        callers = [Caller(g.port, 60).chat(stream=True) for _ in range(STREAMS)]
        for caller in callers:
            assert caller.head().status == 200
            assert caller.chunk() == b"data: begin\n\n"
        stopping = threading.Thread(target=g.stop, args=(False,))
        stopping.start()
        g.until(lambda r: r.gateway.draining)
        engine.go.set()
        for caller in callers:
            body = b""
            while piece := caller.chunk():
                body += piece
            assert body == b"data: end\n\ndata: [DONE]\n\n"
            caller.sock.close()
        stopping.join(30)
        assert not stopping.is_alive()


class Load:
    """Callers in a closed loop on threads of their own, until told to stop."""

    def __init__(self, g: InProcess, callers: int) -> None:
        self.replies: queue.Queue[int] = queue.Queue()
        self.statuses: set[int] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(g.port,)) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _call(self, port: int) -> None:
        with Caller(port) as caller:
            while not self._over.is_set():
                self.replies.put(caller.chat().reply().status)

    def take(self, count: int) -> None:
        """Wait for ``count`` more answers."""
        self.statuses |= {self.replies.get(timeout=20) for _ in range(count)}


def ready(name: str) -> Callable[[RunningGateway], bool]:
    return lambda r: r.gateway.engines[name].instance.state is EngineState.READY


def test_reloads_that_add_and_remove_an_instance_lose_no_request() -> None:
    with RogueEngine(ok("a")) as a, RogueEngine(ok("b")) as b, gateway(a) as g:
        kept = g.settings_to_load.instances[0]
        other = InstanceSettings(url=b.url, name="other", kind="mixed")
        with Load(g, 8) as load:
            for _ in range(5):
                for instances in ((kept, other), (other,), (kept,)):
                    g.settings_to_load = replace(g.settings_to_load, instances=instances)
                    g.ask(lambda r: r.reload())
                    for entry in instances:
                        name = entry.name or ""
                        g.until(ready(name))
                    load.take(30)
        load.take(load.replies.qsize())
        assert load.statuses == {200}
        assert b.requests
        g.until(lambda r: r.gateway.in_flight == 0)
