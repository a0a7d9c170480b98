"""Callers in a closed loop, each with one short stream after the other: requests a second and how long they took."""

from __future__ import annotations

from tests.bench.figures import summary
from tests.bench.load.connection import Result, connect, request
from tests.bench.load.repeating import Repeating, measured
from tests.bench.mock.orders import Orders


class _Caller(Repeating):
    def reset(self) -> None:
        self.took_ns: list[float] = []
        self.first_ns: list[float] = []

    def begin(self) -> None:
        self._first_ns = 0
        super().begin()

    def on_body(self, body: bytes) -> None:
        self._first_ns = self._first_ns or self.now_ns

    def answered(self) -> None:
        self.took_ns.append(self.now_ns - self.sent_ns)
        self.first_ns.append(self._first_ns - self.sent_ns)


async def run(url: str, model: str, callers: int, chunks: int, gap_us: int, seconds: float) -> Result:
    """``took`` is the time from the request to the end of its stream, ``first`` that to its first chunk."""
    asked = request(url, "/v1/chat/completions", Orders(chunks=chunks, gap_us=gap_us).body(model))
    opened = [await connect(url, lambda: _Caller(asked)) for _ in range(callers)]
    took = await measured(opened, seconds)
    took_ns = [each for caller in opened for each in caller.took_ns]
    first_ns = [each for caller in opened for each in caller.first_ns]
    for caller in opened:
        caller.stop()
    return {
        "requests": len(took_ns),
        "requests_per_s": len(took_ns) / took,
        "failures": sum(caller.failures for caller in opened),
        **summary(took_ns, "took"),
        **summary(first_ns, "first"),
    }
