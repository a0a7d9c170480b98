"""Streams that start anew whenever they end: chunks a second, and each chunk's one-way delay."""

from __future__ import annotations

from tests.bench.figures import summary
from tests.bench.load.connection import Result, connect, request
from tests.bench.load.repeating import Repeating, measured
from tests.bench.mock.frames import STAMP
from tests.bench.mock.orders import Orders


class _Stream(Repeating):
    """Counts the chunks of stream after stream, until it is stopped."""

    def reset(self) -> None:
        self.chunks = 0

    def on_body(self, body: bytes) -> None:
        self.chunks += body.count(b"data: {")


class _TimedStream(_Stream):
    """Delay: from the time the engine wrote into the chunk until it came (same host, same clock)."""

    def reset(self) -> None:
        super().reset()
        self.delays_ns: list[float] = []
        self._tail = b""

    def on_body(self, body: bytes) -> None:
        body = self._tail + body
        cut = body.rfind(b"\n\n") + 2
        self._tail = body[cut:] if cut > 1 else body
        stamps = STAMP.findall(body[:cut]) if cut > 1 else []
        self.chunks += len(stamps)
        self.delays_ns.extend(self.now_ns - int(stamp) for stamp in stamps)


async def run(url: str, model: str, streams: int, gap_us: int, seconds: float) -> Result:
    """Delays are those of paced streams only, because without pacing chunks pile up in the sockets."""
    body = Orders(chunks=200, gap_us=gap_us).body(model)
    asked = request(url, "/v1/chat/completions", body)
    kind = _TimedStream if gap_us else _Stream
    opened = [await connect(url, lambda: kind(asked)) for _ in range(streams)]
    took = await measured(opened, seconds)
    chunks = sum(stream.chunks for stream in opened)
    delays = [delay for stream in opened if isinstance(stream, _TimedStream) for delay in stream.delays_ns]
    for stream in opened:
        stream.stop()
    failures = sum(stream.failures for stream in opened)
    return {"chunks": chunks, "chunks_per_s": chunks / took, "failures": failures} | (
        summary(delays, "delay") if gap_us else {}
    )
