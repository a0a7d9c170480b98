"""The ASGI application around a simulated engine. It records requests, applies faults, and notices departed clients."""

from __future__ import annotations

import asyncio
import logging

from sage_inference.simulator.admin import Admin
from sage_inference.simulator.engine import SimulatedEngine
from sage_inference.simulator.exchange import Receive, Reply, Request, Scope, Send
from sage_inference.simulator.faults import Fault, FaultBook
from sage_inference.simulator.faulty import CutError, FaultyReply, end_as_after_a_core_died, instead
from sage_inference.simulator.protocol import Connection
from sage_inference.simulator.records import Records

log = logging.getLogger("sage_inference.simulator")


class Application:
    def __init__(self, engine: SimulatedEngine, records: Records, faults: FaultBook, admin: Admin) -> None:
        self._engine = engine
        self._records = records
        self._faults = faults
        self._admin = admin
        self._under_way: set[asyncio.Task[None]] = set()
        self._core_died = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"]["connection"]
        task = asyncio.current_task()
        assert task is not None
        # A client that leaves cancels the work for it, wherever that work waits.
        connection.on_gone = task.cancel
        try:
            body = await _body(receive)
            if body is None:
                return
            # uvicorn stops reading after a large body, but a client that is not read from cannot be seen to leave.
            connection.flow.resume_reading()
            request = Request(scope["method"], scope["path"], scope["query_string"], scope["headers"], body)
            if request.path.startswith("/simulator/"):
                await self._admin.handle(request, Reply(connection, send))
            else:
                await self._serve(request, connection, send)
        except asyncio.CancelledError:
            if not connection.gone:  # the server ends, and the client has not left
                raise
        finally:
            connection.on_gone = None

    async def _serve(self, request: Request, connection: Connection, send: Send) -> None:
        self._records.arrived(request)
        fault = self._faults.take(request.method, request.path)
        headers = self._engine.headers_for(request)
        reply = FaultyReply(fault, connection, send, headers) if fault else Reply(connection, send, headers)
        task = asyncio.current_task()
        assert task is not None
        try:
            self._under_way.add(task)
            await self._answer(request, reply, fault)
        except asyncio.CancelledError:
            if connection.gone or not self._core_died:
                self._records.left(request)
                raise
            await end_as_after_a_core_died(reply)
        except CutError:
            pass
        except Exception:
            log.exception("%s %s failed in the simulator itself", request.method, request.path)
            connection.transport.close()
        finally:
            self._under_way.discard(task)
        self._records.ended(request, reply.status)

    def core_died(self) -> None:
        """Answer all requests, under way and to come, as vLLM does once EngineCore is dead."""
        self._core_died = True
        for task in self._under_way:
            task.cancel()

    async def _answer(self, request: Request, reply: Reply, fault: Fault | None) -> None:
        if fault is not None and await instead(fault, reply):
            return
        if self._core_died and request.method == "POST":
            await end_as_after_a_core_died(reply)
        else:
            await self._engine.handle(request, reply)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None if the client left before its end."""
    message = await receive()
    if message["type"] != "http.request":
        return None
    first: bytes = message["body"]
    if not message["more_body"]:
        return first
    parts = [first]
    while message["more_body"]:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message["body"])
    return b"".join(parts)
