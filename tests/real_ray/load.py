"""Streams at a fixed rate, and the outcome of each."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType

MODEL = "sim/llm"


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """``how``: ``well``, ``error event`` after a beginning, ``cut`` without one, a status such as ``503``, or ``refused``."""

    began: float
    took: float
    how: str


class Streams:
    """As a context: begins ``rate`` streams a second until its end, and then waits for all of them."""

    def __init__(self, port: int, rate: float = 10, tokens: int = 128) -> None:
        self._port = port
        self._gap = 1 / rate
        self._tokens = tokens
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.outcomes: list[StreamOutcome] = []

    def __enter__(self) -> Streams:
        self._clock = threading.Thread(target=self._begin_all, daemon=True)
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._clock.join()
        for thread in self._threads:
            thread.join(120)

    def run(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def counts(self) -> Counter[str]:
        with self._lock:
            return Counter(each.how for each in self.outcomes)

    @property
    def failed(self) -> int:
        return sum(count for how, count in self.counts.items() if how != "well")

    def words(self) -> str:
        counts = self.counts
        others = ", ".join(f"{count} {how}" for how, count in sorted(counts.items()) if how != "well")
        return f"{counts['well']} of {counts.total()} well{f'; {others}' if others else ''}"

    def _begin_all(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += self._gap
            thread = threading.Thread(target=self._one, args=(len(self._threads),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _one(self, number: int) -> None:
        began = time.monotonic()
        how = self._stream(number)
        with self._lock:
            self.outcomes.append(StreamOutcome(began, time.monotonic() - began, how))

    def _stream(self, number: int) -> str:
        body = {
            "model": MODEL,
            "stream": True,
            "max_tokens": self._tokens,
            "messages": [{"role": "user", "content": f"question {number}: how are you?"}],
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=90)
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
            )
            response = connection.getresponse()
            try:
                content = response.read()
            except http.client.IncompleteRead as error:  # so ends a stream with an error event
                content = error.partial
        except (OSError, http.client.HTTPException):
            return "refused"
        finally:
            connection.close()
        if response.status != 200:
            return str(response.status)
        if b'"error"' in content:
            return "error event"
        return "well" if content.rstrip().endswith(b"data: [DONE]") else "cut"
