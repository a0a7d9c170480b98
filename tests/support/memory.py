"""A gateway's memory around large bodies."""

from __future__ import annotations

import time

from tests.bench.pipelining.scene import resident_mb
from tests.support.gateway import running_gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller


def check_memory_goes_back(body: bytes) -> None:
    """``body`` is a whole request, which four callers send one after another."""
    with RogueEngine(ok()) as engine, running_gateway(engine.url) as g:
        callers = [Caller(g.port) for _ in range(4)]
        callers[0].chat().reply()
        before = resident_mb(g.process.pid)
        for caller in callers:  # their connections stay open
            assert caller.send(body).reply().status == 200
        ends = time.monotonic() + 8
        while (after := resident_mb(g.process.pid)) > before + 20 and time.monotonic() < ends:
            time.sleep(0.2)
        for caller in callers:
            caller.sock.close()
    assert after <= before + 20
