"""Connections to an engine: made, kept, told of."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.pool import Address, Pool


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
            pool = Pool(Address("127.0.0.1", server.getsockname()[1]))
            pool.connect(made.append, failed.append)
            async with asyncio.timeout(5):
                while not (made or failed):
                    await asyncio.sleep(0)
        return made, failed

    made, failed = asyncio.run(main())
    assert (made, [type(error) for error in failed]) == ([], [ConnectionResetError])
