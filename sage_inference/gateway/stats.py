"""Counters of the relay. They are plain integers on the hot path, and are read on request."""

from __future__ import annotations

from itertools import cycle
from typing import Protocol

from sage_inference.control_plane.accounting.estimates import TokenEstimates
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.gateway.access_log import AccessLog
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.phase import Phase
from sage_inference.telemetry.exposition import Histogram
from sage_inference.telemetry.refusals import Refusals
from sage_inference.telemetry.tally import OTHER, RequestTally
from sage_inference.types import ExecutionInstance, RequestPriority, SchedulingRequest, Usage

_DONE = Phase.DONE  # as a global: an enum's members are looked up by a Python call
_MOST_CODES = 128
_WAITS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class AtInstance(Protocol):
    @property
    def instance(self) -> ExecutionInstance: ...


class CountedRequest(Protocol):
    """A relayed request, as it is counted. It has no ``request`` if its body was refused."""

    head: RequestHead
    request: SchedulingRequest
    status: int
    busy_s: float
    texts: int

    @property
    def attempt(self) -> AtInstance: ...  # the last one; None if there was none

    @property
    def instance(self) -> ExecutionInstance | None: ...

    @property
    def counted_tokens(self) -> int | None: ...

    def used(self, usage: Usage | None, estimated: tuple[int, int] | None) -> None: ...


class Stats:
    """Totals since the start.

    ``engine_failures``: answers that came to their end and report that the engine gave them up.
    ``handed_over``: prompts whose blocks went from a prefilling to a decoding instance. ``handover_failures``:
    requests that were to be split into two legs, and then went to one instance.
    """

    def __init__(self, registry: Registry, estimates: TokenEstimates) -> None:
        self._registry = registry
        self._estimates = estimates
        self.tally = RequestTally()
        self.refusals = Refusals()
        self.cancelled = 0
        self.cut = 0
        self.engine_failures = 0
        self.handed_over = self.handover_failures = 0
        self.waits = [Histogram(_WAITS) for _ in RequestPriority]  # of requests that queued, by priority
        self.errors: dict[str, int] = {}  # that the gateway itself answered, by code
        self.access: AccessLog | None = None
        self.samples = cycle((True, *(False,) * 31))  # whether the gaps of the next stream are measured

    def answered_with(self, error: ApiError) -> None:
        """Count an error of the gateway's own, or of an engine's in the gateway's words."""
        code = error.code or error.type
        if code not in self.errors and len(self.errors) >= _MOST_CODES:  # engines may make up any
            code = OTHER
        self.errors[code] = self.errors.get(code, 0) + 1

    @property
    def total(self) -> int:
        return sum(counts.requests for counts in self.tally.series.values())

    @property
    def outcomes(self) -> dict[tuple[str, int], int]:
        """Ended requests by (route, status). Status 0 is a caller that left first."""
        found: dict[tuple[str, int], int] = {}
        for (route, status, *_), counts in self.tally.series.items():
            found[route, status] = found.get((route, status), 0) + counts.requests
        return found

    def ended(self, exchange: CountedRequest, phase: Phase, usage: Usage | None, chunks: int) -> None:
        """Count a request that ended. ``usage`` is what its engine reported.

        ``chunks``: those of a stream of generated text, each of which counts as a token where there is no usage.
        """
        status = exchange.status
        if phase is not _DONE:
            if phase is Phase.CANCELLED:
                self.cancelled += 1
                status = 0
            else:
                self.cut += 1
        tally, head, attempt = self.tally, exchange.head, exchange.attempt
        request: SchedulingRequest | None
        instance = exchange.instance if attempt is None else attempt.instance
        if instance is not None:
            request = exchange.request
            kind = head.route.path, status, request.model, instance.instance_id, head.tenant
        else:
            request, kind = self._unplaced(exchange, status)
        try:
            counts = tally.series[kind]
        except KeyError:
            counts = tally.counts(kind)
        estimated = None
        if usage is None and request is not None:
            if chunks:
                estimated = request.prompt_tokens or self._estimated_prompt(request), chunks
            elif (tokens := exchange.counted_tokens) is not None:
                usage = Usage(tokens, 0)
        counts.note(usage, estimated, exchange.texts, exchange.busy_s)
        if head.budget is not None:
            exchange.used(usage, estimated)
        if tally.follows_users and request is not None and request.user:
            users = tally.of_user(kind, request.user)
            users.note(usage, estimated, exchange.texts, exchange.busy_s)

    def _estimated_prompt(self, request: SchedulingRequest) -> int:
        """The tokens of a prompt that was not measured, as some are not where there was no choice of instances."""
        a_byte = self._estimates.tokens_per_byte(request.model, request.script)
        return max(1, round(request.prompt_bytes * a_byte))

    def _unplaced(
        self, exchange: CountedRequest, status: int
    ) -> tuple[SchedulingRequest | None, tuple[str, int, str, str, str]]:
        """The request and the kind of one that no instance was asked for. Its model may be anything that callers send."""
        request = getattr(exchange, "request", None)
        model = request.model if request is not None else ""
        if model and model not in self._registry.models():
            model = OTHER
        return request, (exchange.head.route.path, status, model, "", exchange.head.tenant)
