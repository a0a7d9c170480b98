"""One caller's latency and the gateway's memory, with and without a flood of pipelined requests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.gateway import Gateway, running_gateway
from tests.support.rogue import RogueEngine, raw
from tests.support.wire import Caller, chat, post

CONNECTIONS = 10
_SETTLES_S = 1.0
# In one packet: the second of two would wait for the gateway's acknowledgement.
_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds of another caller's chats, and MB of the gateway at the begin and at the most."""

    requests: int
    p50_ms: float
    p99_ms: float
    most_ms: float
    begin_mb: float
    most_mb: float


def measured(gateway: Gateway, seconds: float) -> Figures:
    """One caller, whose connection stays, one request every 5 ms."""
    request = post("/v1/chat/completions", chat())
    took: list[float] = []
    memory = [resident_mb(gateway.process.pid)]
    with Caller(gateway.port) as caller:
        ends = time.monotonic() + seconds
        while (began := time.monotonic()) < ends:
            caller.send(request).reply()
            took.append((time.monotonic() - began) * 1000)
            if len(took) % 50 == 0:
                memory.append(resident_mb(gateway.process.pid))
            time.sleep(max(0.0, 0.005 - (time.monotonic() - began)))
    took.sort()
    return Figures(
        len(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1], memory[0], max(memory)
    )


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@contextmanager
def scene() -> Iterator[Gateway]:
    with RogueEngine(raw(_ANSWER)) as engine, running_gateway(engine.url) as gateway:
        measured(gateway, _SETTLES_S)
        yield gateway


@contextmanager
def flood(gateway: Gateway, kind: str) -> Iterator[None]:
    """``kind`` is "reading" for callers that read their answers, or "deaf"."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.pipelining.flood",
        str(gateway.port),
        str(CONNECTIONS),
        kind,
    ]
    process = subprocess.Popen(command)
    try:
        time.sleep(_SETTLES_S)  # the buffers of the sockets fill
        yield
    finally:
        process.kill()
        process.wait()
