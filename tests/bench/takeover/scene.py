"""One run: two gateways with the same configuration, callers that know both, and the death of the first."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sage_inference.bench.samples import nearest_rank
from tests.bench.outage.callers import Callers
from tests.bench.outage.engines import Engines
from tests.bench.outage.heard import End, Heard
from tests.bench.outage.phases import Row
from tests.support.gateway import Gateway, running_gateway

_PATIENCE_S = 60.0
FIRST_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Takeover:
    """``killed``: the moment of the kill, of ``time.monotonic``."""

    heard: list[Heard]
    killed: float
    left_in_flight: int  # on the second gateway and on the engines, when all callers have gone

    def due(self, start: float, end: float) -> list[Heard]:
        return [one for one in self.heard if start <= one.due < end]

    @property
    def cut(self) -> list[Heard]:
        return [one for one in self.heard if one.end is End.CUT]

    @property
    def lost(self) -> list[Heard]:
        return [one for one in self.heard if one.end in (End.FAILED, End.FALSE)]

    @property
    def repeated(self) -> list[Heard]:
        """Requests that the first gateway had when it was killed, and that the second one answered."""
        return [one for one in self.heard if one.gateway and one.due < self.killed]

    @property
    def first_answer_s(self) -> float:
        """From the kill to the first byte of an answer that the second gateway sent."""
        return min((one.first for one in self.heard if one.gateway), default=math.inf) - self.killed


async def takeover(seconds: float, per_s: float, *, tokens: int = 200, speed: float = 1.0) -> Takeover:
    """``seconds`` of load before the kill, and as many after it. ``tokens``: of each answer."""
    with ExitStack() as stack:
        engines = Engines(stack, ("a", "b"), "--speed", str(speed))
        config = {"instances": engines.settings}
        first, second = (stack.enter_context(running_gateway(config=config)) for _ in range(2))
        callers = Callers([first.port, second.port], per_s, prompt_words=400, output_tokens=tokens)
        callers.come()
        await asyncio.sleep(seconds)
        await callers.until(lambda one: one.streams, _PATIENCE_S)
        first.process.kill()
        killed = time.monotonic()
        await asyncio.sleep(seconds)
        await callers.leave()
        return Takeover(callers.heard, killed, await asyncio.to_thread(_left, second, engines))


def _left(gateway: Gateway, engines: Engines) -> int:
    for engine in engines.by_name.values():
        engine.wait(running=0, waiting=0)
    status: dict[str, Any] = gateway.status()
    counts = [int(status["requests"][key]) for key in ("in_flight", "queued")]
    return sum(counts) + sum(int(instance["in_flight"]) for instance in status["instances"])


def rows(found: Takeover) -> Iterator[Row]:
    """The figures that have a bound, each with its bound."""
    strange = [one for one in found.cut if one.due > found.killed]
    yield Row("requests without an answer", len(found.lost), 0)
    yield Row("streams cut that began after the kill", len(strange), 0)
    yield Row("left in flight", found.left_in_flight, 0)
    yield Row("s from the kill to the first answer of the second", found.first_answer_s, FIRST_ANSWER_S)


def ttft_ms(heard: Sequence[Heard], quantile: int) -> float:
    """Of the streams among them; the quantile in thousandths."""
    times = sorted(one.ttft_ms for one in heard if one.ask.streamed and one.end is End.WHOLE)
    return nearest_rank(times, quantile) if times else math.nan
