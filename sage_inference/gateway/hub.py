"""The state that all requests of one gateway share: its rules, its upstreams, its scheduler, its counters."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from functools import partial
from itertools import count

from sage_inference.config.settings import SchedulingSettings, Settings
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.instances.rejections import queue_timeout
from sage_inference.control_plane.policies import PlacementPolicy, hybrid_with, policy_named
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import Hooks, SchedulerSettings
from sage_inference.engines.descriptors import Descriptors
from sage_inference.gateway.access_log import AccessLog
from sage_inference.gateway.backlog import Backlog
from sage_inference.gateway.body_memory import Bodies
from sage_inference.gateway.connection_limit import ConnectionLimit, LimitedConnection
from sage_inference.gateway.cors import grant_lines
from sage_inference.gateway.decoding import Decoding
from sage_inference.gateway.found_engines import FoundEngines
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.key_limits.budgets import KeyBudgets
from sage_inference.gateway.key_limits.revoked import end_waiting
from sage_inference.gateway.managed.waiting_room import WaitingRoom
from sage_inference.gateway.own_certificate import OwnCertificate
from sage_inference.gateway.relay.coalescing import Coalescer
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.request_ids import RequestIds
from sage_inference.gateway.source_view import SourceView
from sage_inference.gateway.stats import Stats
from sage_inference.gateway.stored_responses import StoredResponses
from sage_inference.gateway.tenants import tenants
from sage_inference.gateway.ui.sessions import Sessions
from sage_inference.gateway.upstream import Upstream
from sage_inference.requests.rejection import Rejection
from sage_inference.telemetry.decisions.recorder import Watcher
from sage_inference.telemetry.predictions import Predictions
from sage_inference.telemetry.tracing.tracer import Tracer
from sage_inference.telemetry.usage_meter import UsageMeter
from sage_inference.types import (
    RequestPriority,
)
from sage_inference.wire.head_cache import HeadCache
from sage_inference.wire.isolation import report
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.timers import TimerWheel

SHORT_BYTES = 2048  # bytes of a short prompt: some 512 tokens, far less than an engine takes at a time
MOST_KNOWN = 1024  # request heads that are cached; the cache is emptied when it is full
STALL_S = 0.3  # a stall of the loop from which on requests under way are not measured
NOTABLE_STALL_S = 1.0  # a stall that is logged

log = logging.getLogger("sage_inference.gateway")


class Hub:
    """The state behind one gateway's sockets. Made inside a running event loop."""

    def __init__(self, settings: Settings, wheel: TimerWheel, admin_token: str | None = None) -> None:
        self.wheel = wheel
        self._loop = asyncio.get_running_loop()
        self.loop_batch = LoopBatch(self._loop.call_soon)
        self.bodies = Bodies()
        self.backlog = Backlog(self._loop.call_soon)
        self.decoding = Decoding(self._loop)
        self.clock = time.monotonic
        self.stalled_at = 0.0  # the end of the last stall of this process
        wheel.on_stall = self._stalled
        self.coalescer = Coalescer(self._loop, self.clock)
        self._started_at = time.monotonic()
        self._admin_token = admin_token
        self.registry = Registry(settings.aliases)
        self._llm_fallback = settings.scheduling.llm_fallback_policy
        self.scheduler = Scheduler(
            self.registry,
            self.new_policy(settings.scheduling.policy),
            SchedulerSettings(settings.limits),
            hooks=Hooks(self._wake_at, self.loop_batch.later, partial(report, what="the scheduler")),
        )
        self._waking: asyncio.TimerHandle | None = None
        self.decisions = Watcher(self.scheduler)
        self.predictions = Predictions(self.decisions.newest)
        self.engines: dict[str, Upstream] = {}
        self.found = FoundEngines()
        self.sources = SourceView()
        self.waiting_room = WaitingRoom(self)
        self.responses = StoredResponses(self.engines)
        self.stats = Stats(self.registry, self.scheduler.estimates)
        self.budgets = KeyBudgets(self.registry, self.clock)
        self.tracer: Tracer | None = None
        self.draining = False
        self.sessions = Sessions(self.clock, self._forget_heads)
        self.usage: UsageMeter | None = None  # if a record of usage is kept
        self.certificate: OwnCertificate | None = None  # if callers connect with TLS
        self.connections = 0
        # A random start, so that connections of two runs differ in one record. JSON numbers are exact up to 2**53.
        self.connection_numbers = count(int.from_bytes(os.urandom(3)) + 1 << 28)
        self.descriptors = Descriptors(lambda: self.connections, self._give_up_one)
        self.callers: set[LimitedConnection] = set()  # their connections; the server adds and removes them
        self.connection_limit = ConnectionLimit(lambda: self.callers, lambda: wheel.now, self.descriptors)
        self._id_start = os.urandom(6).hex().encode()
        self._ids = 0
        self.request_ids = RequestIds(b"req-" + self._id_start, self.new_id, self._loop.call_later)
        Hub.configure(self, settings)  # a subclass is not complete yet

    def configure(self, settings: Settings) -> None:
        """Apply new settings. Requests under way keep their rights. A new timeout applies from their next phase on.

        Raises ``ConfigError``, ``SecretError``, and then changes nothing.
        """
        # Everything that can fail comes before the first change.
        record_file = self.decisions.file_at(settings.scheduling.record_file)
        guard = Guard(settings, self._id_start.decode(), self._admin_token, self.sessions)
        self.settings: Settings = settings
        self._forget_heads()
        former, self.guard = getattr(self, "guard", guard), guard
        self.budgets.configure(settings.api_keys)
        self.timeouts = settings.timeouts
        self.wheel.idle_s = settings.timeouts.stream_idle_s
        self.limits = settings.limits
        self.connection_limit.configured = settings.limits.connections
        self._look_at_output()
        self.retries = settings.scheduling.retries
        self.stats.access = AccessLog() if settings.logging.access else None
        self.registry.aliases = dict(settings.aliases)
        self.registry.changed()
        self._track_prompts()
        self.decisions.record_to(record_file)
        self._schedule(settings)
        for upstream in self.engines.values():
            upstream.configure()
        if guard.lacks_keys_of(former):
            end_waiting(self.callers, guard)

    def _forget_heads(self) -> None:
        """Begin a new cache, because the guard may now reject heads that it accepted."""
        self.known_heads: HeadCache[RequestHead] = HeadCache(MOST_KNOWN)

    def _schedule(self, settings: Settings) -> None:
        """Pass the settings of scheduling to the scheduler."""
        scheduler, scheduling = self.scheduler, settings.scheduling
        scheduler.configure(
            SchedulerSettings(
                settings.limits,
                scheduling.slo,
                llm_share(scheduling),
                reads_all_usage=scheduling.record_file is not None,
                weights={name: key.weight for name, key in tenants(settings.api_keys)},
                prefers_specialized=scheduling.prefer_specialized_instances,
            )
        )
        self.key_priority = {
            name: RequestPriority[key.priority.upper()]
            for name, key in tenants(settings.api_keys)
            if key.priority
        }
        for upstream in self.engines.values():
            upstream.set_window(scheduling.late_binding)
        fallback, self._llm_fallback = self._llm_fallback, scheduling.llm_fallback_policy
        changed = {"hybrid"} if fallback != self._llm_fallback else set()

        def policy(name: str, kept: PlacementPolicy | None) -> PlacementPolicy:
            if kept is None or kept.name != name or name in changed:
                return self.new_policy(name)
            return kept

        by_model = {
            model: policy(name, scheduler.policies.get(model)) for model, name in scheduling.policies.items()
        }
        scheduler.use(policy(scheduling.policy, scheduler.policy), by_model)

    def new_policy(self, name: str) -> PlacementPolicy:
        """A new instance of the policy. Raises ``KeyError`` for an unknown name."""
        return hybrid_with(self._llm_fallback) if name == "hybrid" else policy_named(name)

    def tick(self) -> None:
        """Has to be called about once a second."""
        self.scheduler.rates.tick(self.clock())
        self.descriptors.renew()
        self.predictions.tick()
        self.sessions.tick()
        self.budgets.tick()
        for upstream in self.engines.values():
            upstream.tick()

    def _stalled(self, lost_s: float) -> None:
        """The event loop did not run for ``lost_s``: no engine is judged by that time, and no pace learned from it."""
        if lost_s < STALL_S:
            return
        self.stalled_at = self.clock()
        self.scheduler.stalled(lost_s)
        for upstream in self.engines.values():
            upstream.window.stalled_at = self.stalled_at
        if lost_s >= NOTABLE_STALL_S:
            log.warning(
                "this process did not run for %.1f s (suspended, or held up): all deadlines move by that time",
                lost_s,
            )

    def ran_since(self, at: float) -> bool:
        """Whether this process ran all the time since ``at``, so that the time since then measures an engine.

        The loop reads sockets before its timers run. Without a look at the clock here, the first answers after a
        suspension would be judged as if there had been none.
        """
        self.wheel.advance()
        return at > self.stalled_at

    @property
    def uptime_s(self) -> float:
        """Seconds since the start, by a clock that nobody sets."""
        return time.monotonic() - self._started_at

    def shrink(self) -> None:
        """Close the connections to engines that only a crowd of callers needed, which has left."""
        for upstream in self.engines.values():
            upstream.pool.shrink()

    def _give_up_one(self) -> bool:
        """Close an idle connection, because descriptors are short: an engine's, or else a caller's."""
        pools = [upstream.pool for upstream in self.engines.values()]
        if pools and max(pools, key=lambda pool: pool.idle).give_up_one():
            return True
        return self.connection_limit.close_one()

    def _wake_at(self, when: float) -> None:
        """Dispatch at ``when``: a waiting request can be placed then, even if no event happens until then."""
        if self._waking is not None:  # without this, each alarm would set another one, without end
            self._waking.cancel()
        self._waking = self._loop.call_later(max(0.0, when - self.clock()), self.scheduler.dispatch)

    def instances_changed(self) -> None:
        """Compute groups anew and dispatch waiting requests, because an instance came, went, recovered or changed."""
        self.registry.changed()
        self.budgets.models_changed()
        self._track_prompts()
        self.scheduler.dispatch()
        self._look_at_output()

    def _track_prompts(self) -> None:
        """Set the size below which prompts are not tracked. Without a choice of instances only a record needs them."""
        matters = self.registry.offers_choice or self.settings.scheduling.record_file
        self.shortest = 0 if matters else SHORT_BYTES

    def _look_at_output(self) -> None:
        """Read the output length of requests only if it is limited, or fits only some of the instances."""
        limits = self.limits
        limited = limits.max_n is not None or limits.max_completion_tokens is not None
        self.looks_at_output = limited or bool(self.scheduler.uneven)

    # For the relay

    def new_id(self) -> bytes:
        """A new id. It serves a request whose caller gave none."""
        self._ids += 1
        return b"req-%b%08x" % (self._id_start, self._ids)

    def queue_timeout(self) -> Rejection:
        """The rejection of a request that waited as long as the settings allow."""
        return queue_timeout(self.timeouts.queue_s, self.scheduler.retry_after())

    def cors_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        if not self.settings.server.cors_origins:
            return b""
        for name, value in headers:
            if name == b"origin":
                allowed = self.guard.allowed_origin(value)
                if allowed is not None:
                    return grant_lines(allowed)
        return b""

    @property
    def can_serve(self) -> bool:
        """Whether at least one instance takes requests."""
        return any(i.is_available for i in self.registry.instances.values())

    @property
    def in_flight(self) -> int:
        return sum(i.active_requests for i in self.registry.instances.values())


def llm_share(scheduling: SchedulingSettings) -> float | None:
    """The share of a shared GPU's time that is kept for LLM work; None for as much as streams need."""
    ratio = scheduling.hybrid_instance_ratio
    return {"high": 0.0, "normal": ratio, "low": (1 + ratio) / 2, "adaptive": None}[
        scheduling.embedding_priority
    ]
