"""Requests at a fixed rate over keep-alive connections: how long each took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.bench.figures import summary
from tests.bench.load.connection import BROKEN, Connection, Result, connect, request
from tests.bench.mock import plain

_CONNECTIONS = 16
_WARM_UP_S = 0.5


class _Timed(Connection):
    def __init__(self, free: list[_Timed], taken_ns: list[float]) -> None:
        super().__init__()
        self._free = free
        self._taken_ns = taken_ns
        self.failures = 0

    def ended(self, status: int) -> None:
        if status == 200:
            self._taken_ns.append(self.now_ns - self.sent_ns)
        elif status != BROKEN:
            self.failures += 1
        if status != BROKEN:
            self._free.append(self)


@dataclass
class Paced:
    """``missed``: requests that no connection was free for."""

    taken_ns: list[float] = field(default_factory=list)
    missed: int = 0
    failures: int = 0

    def __iadd__(self, other: Paced) -> Paced:
        self.taken_ns += other.taken_ns
        self.missed += other.missed
        self.failures += other.failures
        return self

    def result(self) -> Result:
        counts: Result = {"missed": self.missed, "failures": self.failures}
        return counts | summary(self.taken_ns, "latency")


async def run(url: str, rate: int, seconds: float) -> Result:
    return (await paced(url, rate, seconds)).result()


async def paced(url: str, rate: int, seconds: float) -> Paced:
    asked = request(url, "/v1/chat/completions", plain.request())
    free: list[_Timed] = []
    taken_ns: list[float] = []
    every = [await connect(url, lambda: _Timed(free, taken_ns)) for _ in range(_CONNECTIONS)]
    free.extend(every)
    loop = asyncio.get_running_loop()
    began, warm, missed = loop.time(), int(rate * _WARM_UP_S), 0
    for number in range(warm + int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        if number == warm:
            taken_ns.clear()
        if free:
            free.pop(0).send(asked)
        else:
            missed += 1
    while len(free) < len(every) and loop.time() < began + _WARM_UP_S + seconds + 5:
        await asyncio.sleep(0.01)
    for connection in every:
        connection.transport.close()
    failures = sum(connection.failures for connection in every)
    return Paced(taken_ns, missed, failures)
