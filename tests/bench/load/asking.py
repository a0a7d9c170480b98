"""Asking the stream engine and the gateway what they have in hand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.bench.load.connection import Call, connect, request

_EVERY_S = 0.001


class Questions:
    """One keep-alive connection for one question, asked again and again."""

    def __init__(self, call: Call, asked: bytes) -> None:
        self._call = call
        self._asked = asked

    async def __call__(self) -> dict[str, Any]:
        status = await self._call.start(self._asked)
        if status != 200:
            raise ConnectionError(f"{self._asked.split(b' ')[1].decode()} answered {status}")
        document: dict[str, Any] = json.loads(self._call.body)
        return document

    def close(self) -> None:
        self._call.transport.close()


async def engine_questions(engine_url: str) -> Questions:
    return Questions(await connect(engine_url, Call), request(engine_url, "/seen"))


async def status_questions(gateway_url: str) -> Questions:
    return Questions(await connect(gateway_url, Call), request(gateway_url, "/admin/status"))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Asks until the answer is yes; False if it never was within ``seconds``."""
    end = time.monotonic() + seconds
    while not await holds():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_EVERY_S)
    return True
