"""An application's answer waits for a caller that reads slowly."""

from __future__ import annotations

import asyncio
import socket

from sage_inference.wire.flow import Flow

PIECE = b"x" * 4_000_000  # more than both sockets' buffers take


class Writer(asyncio.Protocol):
    flow: Flow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.flow = Flow(transport)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()


async def connected() -> tuple[Writer, asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    _, writer = await loop.create_connection(Writer, sock=ours)
    reader, peer = await asyncio.open_connection(sock=theirs)
    return writer, reader, peer


def test_what_drains_waits_until_the_reader_took_it_and_again_for_the_next() -> None:
    async def main() -> None:
        writer, reader, peer = await connected()
        await writer.flow.drain()  # nothing was written: nothing to wait for
        for _ in range(2):
            writer.transport.write(PIECE)
            assert writer.flow.write_paused
            drained = asyncio.ensure_future(writer.flow.drain())
            await asyncio.sleep(0)
            assert not drained.done()
            await asyncio.wait_for(reader.readexactly(len(PIECE)), 10)
            await asyncio.wait_for(drained, 10)
            assert not writer.flow.write_paused
        writer.transport.close()
        peer.close()

    asyncio.run(main())


def test_reading_is_paused_and_resumed_once_each() -> None:
    async def main() -> list[bool]:
        writer, _, peer = await connected()
        seen = []
        for step in (
            writer.flow.pause_reading,
            writer.flow.pause_reading,
            writer.flow.resume_reading,
            writer.flow.resume_reading,
        ):
            step()
            seen.append(writer.transport.is_reading())
        writer.transport.close()
        peer.close()
        return seen

    assert asyncio.run(main()) == [False, False, True, True]
