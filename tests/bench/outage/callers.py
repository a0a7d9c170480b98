"""Independent callers, each with a connection of its own, who come by the clock whatever the gateway does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence

from tests.bench.errors import BenchError
from tests.bench.outage.heard import Ask, Heard

STREAMED = 0.75  # of all requests
_PATIENCE_S = 120.0


class Callers:
    """Poisson arrivals of ``per_s`` until ``leave``; ``heard`` has all of them, in order of arrival.

    ``ports`` are those of gateways. A caller asks the next one if a gateway is not reached, or breaks off before a
    stream has begun.
    """

    def __init__(
        self, ports: Sequence[int], per_s: float, prompt_words: int, output_tokens: int, seed: int = 1
    ) -> None:
        self._ports = ports
        self._per_s = per_s
        self._shape = (prompt_words, output_tokens)
        self._rng = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._coming: asyncio.Task[None] | None = None
        self.heard: list[Heard] = []

    def come(self) -> None:
        self._coming = asyncio.create_task(self._arrive(time.monotonic()))

    async def leave(self) -> None:
        """No more come; returns when all who came have their answers."""
        assert self._coming is not None
        self._coming.cancel()
        await asyncio.gather(*self._tasks)

    async def until(self, fact: Callable[[Heard], bool], seconds: float) -> Heard:
        """The first caller of whom this is true, as soon as it is. Raises ``BenchError``."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._news.clear()
                    found = next((one for one in self.heard if fact(one)), None)
                    if found is not None:
                        return found
                    await self._news.wait()
        except TimeoutError:
            raise BenchError(
                f"within {seconds:.0f} s no caller came to the engine that is to fail: where hardly any come, "
                "the fastest engine gets them all; give a higher --rate"
            ) from None

    async def _arrive(self, start: float) -> None:
        for number, (due, streamed) in enumerate(self._arrivals(start)):
            await asyncio.sleep(due - time.monotonic())
            heard = Heard(Ask(number, streamed, *self._shape), due)
            self.heard.append(heard)
            task = asyncio.create_task(self._ask(heard))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _arrivals(self, at: float) -> Iterator[tuple[float, bool]]:
        while True:
            at += self._rng.expovariate(self._per_s)
            yield at, self._rng.random() < STREAMED

    async def _ask(self, heard: Heard) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for heard.gateway, port in enumerate(self._ports):
                    try:
                        await self._ask_at(port, heard)
                        break
                    except (OSError, EOFError):
                        if heard.streams or port == self._ports[-1]:
                            raise
                        heard.body.clear()
                        heard.status = 0
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            heard.error = repr(error)
        heard.ended = time.monotonic()
        self._news.set()

    async def _ask_at(self, port: int, heard: Heard) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(heard.ask.request())
            await self._hear(heard, reader)
        finally:
            writer.transport.abort()

    async def _hear(self, heard: Heard, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        heard.status = int(head[0].split()[1])
        heard.instance = headers.get("x-sage-instance", "")
        if "content-length" in headers:
            heard.body += await reader.readexactly(int(headers["content-length"]))
            heard.first = time.monotonic()
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                piece = await reader.readexactly(size + 2)
                if not heard.body:
                    heard.first = time.monotonic()
                    self._news.set()
                heard.body += piece[:-2]
            await reader.readexactly(2)
        heard.complete = True
