"""The access log: one line a request when ``logging.access`` is on, written after its answer.

Sizes, times and names; never texts, keys or queries.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.requests.routes import Route
from sage_inference.types import ExecutionInstance, Usage

log = logging.getLogger("sage_inference.access")
# The setting alone decides: a level of warning does not silence it.
log.setLevel(logging.INFO)


class Clocked(Protocol):
    clock: Callable[[], float]


class EndedRequest(Protocol):
    """A relayed request, as its line shows it. It has no ``request`` and no ``queued_at`` if its body was refused."""

    head: RequestHead
    request_id: bytes
    size: int
    status: int

    @property
    def gateway(self) -> Clocked: ...

    @property
    def caller_id(self) -> bytes: ...

    @property
    def route(self) -> Route: ...

    @property
    def instance(self) -> ExecutionInstance | None: ...

    @property
    def first_byte_at(self) -> float | None: ...

    @property
    def counted_tokens(self) -> int | None: ...

    @property
    def is_answered(self) -> bool: ...

    @property
    def body_bytes(self) -> int | None: ...


class AccessLog:
    """Writes the lines of one gateway. A gateway whose setting is off has no access log."""

    def ended(self, exchange: EndedRequest, ended: str, usage: Usage | None) -> None:
        """Log a relayed request that ended, and the usage that its engine reported.

        Must be called before its placement is released.
        """
        request = getattr(exchange, "request", None)
        # A request that goes to several engines in turn enters the queue more than once.
        began = (request.arrived if request is not None else 0.0) or getattr(exchange, "queued_at", None)
        now = exchange.gateway.clock()
        instance = exchange.instance
        # The status of an engine's answer is not the caller's before something was written to the caller.
        status = exchange.status if exchange.is_answered else 0
        write(
            exchange.caller_id.decode("latin-1"),
            exchange.route.method,
            exchange.route.path,
            status,
            outcome(status, ended, placed=instance is not None),
            engine_request_id=_id_at_engine(exchange),
            tenant=exchange.head.tenant or None,
            model=(request.model or None) if request is not None else None,
            instance=None if instance is None else instance.instance_id,
            first_byte_ms=_ms(began, exchange.first_byte_at),
            total_ms=_ms(began, now),
            request_bytes=exchange.size,
            response_bytes=exchange.body_bytes,
            prompt_tokens=usage.prompt_tokens if usage is not None else exchange.counted_tokens,
            completion_tokens=usage.completion_tokens if usage is not None else None,
        )

    def refused(
        self, request_id: bytes, method: bytes, target: bytes, status: int, response_bytes: int
    ) -> None:
        """Log a refused connection or request. Method and target are empty if its head was not read."""
        write(
            request_id.decode("latin-1"),
            method.decode("latin-1") or "-",
            target.partition(b"?")[0].decode("latin-1") or "-",
            status,
            "refused",
            response_bytes=response_bytes,
        )


def outcome(status: int, ended: str, *, placed: bool) -> str:
    """``done``, ``failed``, ``aborted`` (by the engine), ``refused`` (no engine was asked), ``cut``, or ``cancelled``
    (the caller left first).
    """
    if status < 400 or ended == "cut":
        return ended
    return "failed" if placed else "refused"


def write(
    request_id: str, method: str, path: str, status: int, outcome: str, **facts: str | float | None
) -> None:
    """Write one line. A status of 0 means that there was no answer."""
    known: dict[str, Any] = {
        "request_id": request_id,
        "method": method,
        "path": path,
        "status": status or None,
        "outcome": outcome,
        **facts,
    }
    words = [method, path, str(status or "-")]
    if outcome != "done":
        words.append(outcome)
    if (took := facts.get("total_ms")) is not None:
        words.append(f"in {took:.1f} ms")
    named = {"model": facts.get("model"), "instance": facts.get("instance"), "tenant": facts.get("tenant")}
    named |= {"id": request_id, "engine_id": facts.get("engine_request_id")}
    words += [f"{name}={_word(str(value))}" for name, value in named.items() if value]
    log.info("%s", " ".join(words), extra=known)


def _word(value: str) -> str:
    """``value`` as one word: a model's name with spaces must not look like two facts."""
    return value if value and not set(value) & set(' \t"=') else json.dumps(value)


def _id_at_engine(exchange: EndedRequest) -> str | None:
    """The id that the request has at its engine, where that is not the caller's."""
    own = exchange.request_id
    return None if own == exchange.caller_id else own.decode("latin-1")


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 3)
