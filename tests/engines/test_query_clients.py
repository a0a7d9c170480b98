"""The clients that ask engines: one for each socket, and a bounded number of them."""

from __future__ import annotations

import asyncio

from sage_inference.engines.query_clients import QueryClients


def test_client_of_a_socket_is_kept_while_others_come_and_go() -> None:
    async def main() -> None:
        clients = QueryClients()
        clients.use(3.0)
        used = clients.of(None, "/run/used.sock")
        assert clients.of(None, "") is clients.of(None) is clients.plain
        for number in range(600):
            assert clients.of(None, f"/run/{number}.sock") is not clients.plain
            assert clients.of(None, "/run/used.sock") is used
        assert used.timeout.read == 3.0
        assert len(clients._others) == 256
        await clients.aclose()

    asyncio.run(main())
