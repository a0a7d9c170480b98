"""Sends one request of each kind before the load, to report a wrong key or model once and not a million times."""

from __future__ import annotations

import asyncio
import socket
import ssl
from time import monotonic

from sage_inference import trust
from sage_inference.bench.client import Client, ServerAddress
from sage_inference.bench.errors import BenchError
from sage_inference.bench.exchange import TimedExchange
from sage_inference.bench.plan import Plan
from sage_inference.bench.target import Target, hint_for
from sage_inference.bench.workload import Workload

# Errors of the caller. A 429 or 503 may pass, and is part of the measurement.
_HOPELESS = frozenset({f"http_{status}" for status in (400, 401, 403, 404, 405, 413, 415, 422, 501)})
_CONNECT_S = 10.0


def reach(target: Target) -> ServerAddress:
    """One of the addresses of the target's name, which answers. Raises ``BenchError``."""
    try:
        with socket.create_connection((target.host, target.port), _CONNECT_S) as sock:
            host, port = sock.getpeername()[:2]
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise BenchError(
            f"{target.url} cannot be reached: {reason}", hint_for(error), "not_reached"
        ) from None
    if not target.tls:
        return ServerAddress(host, port)
    return ServerAddress(host, port, _trusted(target), target.host)


def _trusted(target: Target) -> ssl.SSLContext:
    try:
        return target.context
    except trust.TrustError as error:
        raise BenchError(f"{target.url} cannot be trusted: {error}", None, "not_reached") from None


async def try_each(plan: Plan, workload: Workload, endpoint: ServerAddress) -> None:
    """Raises ``BenchError`` for a kind of request that the server will never answer."""
    ended: asyncio.Queue[TimedExchange] = asyncio.Queue()
    client = Client(endpoint, limit=1, timeout_s=plan.timeout_s, on_end=ended.put_nowait)
    try:
        for kind in plan.shape.mix:
            client.send(TimedExchange(workload.request(kind), monotonic()))
            exchange = await ended.get()
            if exchange.error in _HOPELESS:
                status = exchange.error.removeprefix("http_")
                raise BenchError(
                    f"{plan.target.url} answers a request of kind {kind} with {status}: {exchange.detail}",
                    f"model was {plan.models[kind]}",
                    exchange.error,
                )
            if exchange.sent is None:
                raise BenchError(
                    f"{plan.target.url} cannot be reached: {exchange.detail}", None, "not_reached"
                )
    finally:
        client.close()
