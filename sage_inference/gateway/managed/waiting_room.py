"""Requests that wait for a managed engine. A request comes here only where it would be refused, because nobody serves it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sage_inference.config.settings import LimitSettings, TimeoutSettings
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.managed import loading_stream
from sage_inference.gateway.managed.loading_stream import StreamedRequest
from sage_inference.gateway.relay.phase import Phase
from sage_inference.requests.rejection import Reason, Rejection

# Until an engine has ended that reports its death or its end: vLLM's server looks every five seconds for its core.
DYING_S = 15.0
TELL_S = 10.0  # of silence for a caller of a stream, before a comment
_SLICE = 32  # requests that are submitted or refused in one piece
# Codes of errors that no engine has worked on.
_UNSERVED = frozenset({"model_not_found", "no_engine_for_route", "no_healthy_instance"})


class WaitedEngine(Protocol):
    """A managed engine, seen by requests that want its model."""

    name: str

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def holds_requests(self) -> bool: ...
    @property
    def serves(self) -> bool:
        """Whether it takes requests; also while it is about to end, see ``ends``."""

    @property
    def ends(self) -> bool:
        """Whether it reports that it shuts down."""

    @property
    def state_name(self) -> str: ...
    @property
    def kind(self) -> str: ...

    def want(self) -> None:
        """A request wants the engine: one that starts on demand starts now."""

    def refusal(self) -> ApiError: ...

    def late(self) -> ApiError:
        """The error of a request that waited as long as it may."""

    def progress_text(self) -> str: ...


class WaitingRequest(StreamedRequest, Protocol):
    """An exchange that may wait."""

    phase: Phase
    size: int
    queued_at: float

    def hold(self, seconds: float) -> None: ...

    def submit_again(self) -> None: ...

    def fail(self, error: ApiError) -> None: ...


class Surroundings(Protocol):
    """The part of its gateway that the room needs."""

    draining: bool
    limits: LimitSettings
    timeouts: TimeoutSettings
    scheduler: Scheduler
    clock: Callable[[], float]


@dataclass(slots=True)
class _Held:
    model: str
    error: ApiError  # the answer if the engine turns out to serve
    told_at: float  # of the loop's clock
    size: int
    failed: bool


class WaitingRoom:
    """The requests that wait, in the order of their arrival. ``declared``: the managed engines by model."""

    def __init__(self, hub: Surroundings) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._held: dict[WaitingRequest, _Held] = {}
        self._size = 0  # bytes of all of them
        self._telling: asyncio.TimerHandle | None = None
        self.declared: Mapping[str, tuple[WaitedEngine, ...]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def waiting_for(self, names: Iterable[str]) -> int:
        wanted = set(names)
        return sum(held.model in wanted for held in self._held.values())

    # Requests that come and go

    def knows(self, model: str) -> bool:
        """Whether a managed engine is declared for the model."""
        return model in self.declared

    def takes(
        self, exchange: WaitingRequest, error: ApiError, *, failed: bool = False, doubt_s: float = 0.0
    ) -> ApiError | None:
        """Let the request wait if a managed engine will serve it, and return None. Otherwise returns its error.

        ``failed``: an engine failed the request in a way that allows another try. If it still serves after
        ``doubt_s``, the request gets its error then.
        """
        if not self.declared or not (failed or error.code in _UNSERVED):
            return error
        request = getattr(exchange, "request", None)  # missing if the request could not be read
        if request is None or self._hub.draining or not (engines := self.declared.get(request.model, ())):
            return error
        if not failed and any(engine.serves and not engine.ends for engine in engines):
            return error  # it serves, but not this route
        for engine in engines:
            engine.want()
        if not any(engine.holds_requests for engine in engines):
            return engines[0].refusal()
        if (full := self._full(exchange)) is not None:
            return full
        self._hold(exchange, request.model, error, failed)
        if any(engine.serves for engine in engines):
            self._loop.call_later(doubt_s if failed else DYING_S, self._look_again, exchange)
        return None

    def _full(self, exchange: WaitingRequest) -> ApiError | None:
        limits = self._hub.limits
        waiting = len(self._held) + self._hub.scheduler.queued
        size = self._size + self._hub.scheduler.queued_bytes + exchange.size
        if waiting < limits.queue_requests and size <= limits.queue_bytes:
            return None
        message = f"{waiting} requests wait already; try again later"
        return errors.from_refusal(
            Rejection(Reason.QUEUE_FULL, message, retry_after_s=self._hub.scheduler.retry_after())
        )

    def _hold(self, exchange: WaitingRequest, model: str, error: ApiError, failed: bool) -> None:
        self._held[exchange] = _Held(model, error, self._loop.time(), exchange.size, failed)
        self._size += exchange.size
        exchange.hold(max(0.0, self._left_s(exchange)))
        if self._telling is None:
            self._telling = self._loop.call_later(1.0, self._tell)

    def _left_s(self, exchange: WaitingRequest) -> float:
        """Seconds that the request may still wait."""
        deadline_ms = exchange.request.slo_deadline_ms
        most = self._hub.timeouts.queue_s
        if deadline_ms is not None:
            most = min(most, deadline_ms / 1000)
        return exchange.queued_at + most - self._hub.clock()

    def _look_again(self, exchange: WaitingRequest) -> None:
        """An engine was thought to serve, and failed a request. If it still serves, the failure was the request's.

        A request that it was never sent, because it seemed to end, is sent now.
        """
        held = self._held.get(exchange)
        if held is None:
            return
        if any(engine.serves and not engine.ends for engine in self.declared.get(held.model, ())):
            self._remove(exchange)
            exchange.fail(held.error) if held.failed else exchange.submit_again()

    def leave(self, exchange: WaitingRequest) -> None:
        self._remove(exchange)

    def _remove(self, exchange: WaitingRequest) -> _Held | None:
        held = self._held.pop(exchange, None)
        if held is not None:
            self._size -= held.size
        return held

    def late(self, exchange: WaitingRequest) -> ApiError | None:
        """The error of a request whose time is over; None if it does not wait here."""
        held = self._remove(exchange)
        if held is None:
            return None
        engines = self.declared.get(held.model, ())
        return engines[0].late() if engines else held.error

    # Engines that come and go

    def admit(self, names: Iterable[str]) -> None:
        """An engine serves these models now: submit the requests for them."""
        self._in_slices(deque(self._of(names)), self._admit)

    def _admit(self, exchange: WaitingRequest) -> None:
        held = self._held.get(exchange)
        if held is None or not any(engine.serves for engine in self.declared.get(held.model, ())):
            return  # it left, or its engine did
        self._remove(exchange)
        exchange.submit_again()

    def refuse(self, names: Iterable[str]) -> None:
        """An engine will not come. End the requests that no other one will serve."""
        self._in_slices(deque(self._of(names)), self._refuse)

    def _refuse(self, exchange: WaitingRequest) -> None:
        held = self._held.get(exchange)
        if held is None:
            return
        engines = self.declared.get(held.model, ())
        if not any(engine.holds_requests for engine in engines):
            self._remove(exchange)
            exchange.fail(engines[0].refusal() if engines else held.error)

    def close(self) -> None:
        """The gateway stops."""
        for exchange in list(self._held):
            if self._remove(exchange) is not None:
                exchange.fail(errors.gateway_stopped())

    def _in_slices(self, exchanges: deque[WaitingRequest], act: Callable[[WaitingRequest], None]) -> None:
        """Act on each request. Thousands may wait, and must not hold the loop up in one piece."""
        for _ in range(min(_SLICE, len(exchanges))):
            act(exchanges.popleft())
        if exchanges:
            self._loop.call_soon(self._in_slices, exchanges, act)

    def _of(self, names: Iterable[str]) -> list[WaitingRequest]:
        wanted = set(names)
        return [exchange for exchange, held in self._held.items() if held.model in wanted]

    # Streams

    def _tell(self) -> None:
        """Send a comment to each stream that has heard nothing for ``TELL_S``: its client must not time out."""
        self._telling = self._loop.call_later(1.0, self._tell) if self._held else None
        now = self._loop.time()
        for exchange, held in list(self._held.items()):
            if now - held.told_at >= TELL_S and loading_stream.may_begin(exchange):
                held.told_at = now
                engines = self.declared.get(held.model, ())
                if engines:
                    loading_stream.comment(exchange, engines[0].progress_text())
