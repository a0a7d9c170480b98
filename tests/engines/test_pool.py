"""Connections to an engine: made, kept, told of."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.pool import Address, Pool
from sage_inference.wire.loop_batch import LoopBatch


def test_a_connection_that_is_closed_as_soon_as_it_is_made_counts_as_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It told that it was lost before anybody used it, and will not tell again."""

    async def main() -> tuple[list[EngineConnection], list[OSError]]:
        loop = asyncio.get_running_loop()
        create = loop.create_connection

        async def and_lose_it(*args: Any, **options: Any) -> Any:
            transport, connection = await create(*args, **options)
            transport.abort()
            await asyncio.sleep(0)
            return transport, connection

        monkeypatch.setattr(loop, "create_connection", and_lose_it)
        made: list[EngineConnection] = []
        failed: list[OSError] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = Address("127.0.0.1", server.getsockname()[1])
            pool = Pool(address, LoopBatch(asyncio.get_running_loop().call_soon))
            pool.connect(made.append, failed.append)
            async with asyncio.timeout(5):
                while not (made or failed):
                    await asyncio.sleep(0)
        return made, failed

    made, failed = asyncio.run(main())
    assert (made, [type(error) for error in failed]) == ([], [ConnectionResetError])


def test_a_pool_shrinks_to_the_newest_of_its_idle_connections() -> None:
    async def main() -> tuple[int, list[bool]]:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
            address = Address("127.0.0.1", server.getsockname()[1])
            pool = Pool(address, LoopBatch(asyncio.get_running_loop().call_soon))
            made: list[EngineConnection] = []
            all_made = asyncio.Event()

            def note(connection: EngineConnection) -> None:
                made.append(connection)
                if len(made) == 20:
                    all_made.set()

            for _ in range(20):
                pool.connect(note, lambda error: pytest.fail(str(error)))
            await asyncio.wait_for(all_made.wait(), 5)
            for connection in made:
                pool._release(connection)
            pool.shrink()
            left, closed = pool.idle, [connection.is_closed for connection in made]
            pool.close()
            return left, closed

    left, closed = asyncio.run(main())
    assert (left, closed) == (16, [True] * 4 + [False] * 16)
