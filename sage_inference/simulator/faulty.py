"""The behaviour of each fault on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sage_inference.simulator.exchange import JSON, Headers, Reply, Send, raw_head
from sage_inference.simulator.faults import Fault
from sage_inference.simulator.protocol import Connection

_DRIP_BYTES = 16
_CORE_DIED = (
    b'{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",'
    b' "type": "InternalServerError", "param": null, "code": 500}}'
)
_DRAINING = (
    b'{"error":{"message":"cannot schedule new futures after shutdown",'
    b'"type":"InternalServerError","param":null,"code":500}}'
)
_AFTER_CHUNKS = frozenset(
    {"reset_after_chunks", "close_after_chunks", "hang_after_chunks", "error_after_chunks"}
)


class CutError(Exception):
    """The fault has ended this exchange. Nothing more must be written."""


async def silence() -> None:
    """Do nothing until the client leaves, which cancels the work for it."""
    await asyncio.get_running_loop().create_future()


async def instead(fault: Fault, reply: Reply) -> bool:
    """Apply a fault that replaces the answer. False if an answer must be made nevertheless."""
    connection = reply.connection
    match fault.kind:
        case "hang":
            await silence()
        case "delay_ms":
            await asyncio.sleep(fault.value / 1000)
            return False
        case "status":
            headers = [(name.lower().encode(), value.encode()) for name, value in fault.headers.items()]
            await reply.whole(int(fault.value), status_body(fault), JSON, headers)
        case "draining":
            await reply.whole(500, _DRAINING)
        case "garbage":
            noise = fault.value if isinstance(fault.value, str) else "\x00\x01 this is not HTTP \x02\r\n\r\n"
            connection.transport.write(noise.encode("latin-1", "replace"))
            connection.transport.close()
        case "reset_before_response":
            connection.reset()
        case "close_before_response":
            connection.transport.close()
        case _:
            return False
    return True


def status_body(fault: Fault) -> bytes:
    if fault.body is not None:
        return fault.body.encode()
    return (
        b'{"error":{"message":"simulated fault","type":"InternalServerError","param":null,"code":%d}}'
        % int(fault.value)
    )


async def end_as_after_a_core_died(reply: Reply) -> None:
    """Answer as vLLM does once EngineCore is dead: with a 500, or with an error at the end of a stream."""
    if reply.status:
        await _end_stream_of_dead_core(reply.event, reply.end)
    else:
        await reply.whole(500, _CORE_DIED.replace(b'": ', b'":').replace(b', "', b',"'))


async def _end_stream_of_dead_core(
    event: Callable[[bytes], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> None:
    await event(b"data: " + _CORE_DIED + b"\n\n")
    await event(b"data: [DONE]\n\n")
    await end()


class FaultyReply(Reply):
    """A reply that applies its fault while it is written."""

    def __init__(self, fault: Fault, connection: Connection, send: Send, headers: Headers = ()) -> None:
        super().__init__(connection, send, headers)
        self._fault = fault
        self._chunks = 0

    async def whole(
        self, status: int, body: bytes, content_type: bytes | None = JSON, headers: Headers = ()
    ) -> None:
        every = [*self._lead(content_type), *headers]
        match self._fault.kind:
            case "slow_drip_ms":
                await self._drip(status, body, every)
            case "truncate" | "close_after_chunks" | "reset_after_chunks" | "hang_after_chunks":
                self._raw(status, every, len(body), body[: len(body) // 2])
                await self._cut()
            case "wrong_content_length":
                self._raw(status, every, max(0, len(body) + int(self._fault.value)), body)
                await silence()
            case _:
                await super().whole(status, body, content_type, headers)
                self._surplus()

    async def event(self, data: bytes) -> None:
        kind = self._fault.kind
        if kind in _AFTER_CHUNKS and self._chunks >= int(self._fault.value):
            if kind == "error_after_chunks":
                await _end_stream_of_dead_core(super().event, super().end)
                raise CutError
            await self._cut()
        if kind == "truncate" and self._chunks:
            # The chunk's declared length is more than the part that is sent.
            self.connection.transport.write(b"%x\r\n" % len(data) + data[: len(data) // 2])
            await self._cut()
        if kind == "slow_drip_ms":
            await asyncio.sleep(self._fault.value / 1000)
        self._chunks += 1
        await super().event(data)

    async def end(self) -> None:
        if self._fault.kind == "slow_drip_ms":
            await asyncio.sleep(self._fault.value / 1000)
        if self._fault.kind in _AFTER_CHUNKS:
            await self._cut()
        await super().end()
        self._surplus()

    async def _drip(self, status: int, body: bytes, headers: Headers) -> None:
        await self._start(status, [*headers, (b"content-length", b"%d" % len(body))])
        for start in range(0, len(body), _DRIP_BYTES):
            await asyncio.sleep(self._fault.value / 1000)
            part = body[start : start + _DRIP_BYTES]
            more = start + _DRIP_BYTES < len(body)
            await self._send({"type": "http.response.body", "body": part, "more_body": more})

    def _raw(self, status: int, headers: Headers, length: int, body: bytes) -> None:
        self.status = status
        head = raw_head(self.connection, status, [*headers, (b"content-length", b"%d" % length)])
        self.connection.transport.write(head + body)

    def _surplus(self) -> None:
        if self._fault.kind == "surplus":
            self.connection.transport.write(str(self._fault.value).encode("latin-1", "replace"))

    async def _cut(self) -> None:
        """End the connection as the fault demands, after earlier writes have left."""
        if self._fault.kind == "hang_after_chunks":
            await silence()
        if self._fault.kind == "reset_after_chunks":
            await asyncio.sleep(0)
            self.connection.reset()
        else:
            self.connection.transport.close()
        raise CutError
