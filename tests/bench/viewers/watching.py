"""``python -m tests.bench.viewers.watching URL COUNT``: viewers of the live state, as pages and ``top`` read it.

Writes a line when each of them has its first document. They read all that comes, and end with this process.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

import uvloop

from tests.bench.load.connection import request

_FIRST = b"event: state"


async def _watch(url: str, shown: asyncio.Semaphore) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request(url, "/admin/live"))
    seen = b""
    while _FIRST not in seen:
        piece = await reader.read(65536)
        if not piece:
            sys.exit(f"the live state ended before its first document: {seen[:200]!r}")
        seen += piece
    shown.release()
    while await reader.read(1 << 20):
        pass
    sys.exit("the live state ended")


async def _main(url: str, count: int) -> None:
    shown = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(_watch(url, shown))
        for _ in range(count):
            await shown.acquire()
        print("all watch", flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
