"""The state of a running gateway: its rules, its engines, its manager, its counters."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Iterable
from functools import partial
from urllib.parse import quote

from sage_inference import trust
from sage_inference.config.settings import InstanceSettings, SchedulingSettings, Settings
from sage_inference.control_plane.embedding import AggregationRules, CallWindow
from sage_inference.control_plane.instances.health import Health
from sage_inference.control_plane.instances.registry import VECTOR_ROUTES, Registry
from sage_inference.control_plane.instances.rejections import unserved_route
from sage_inference.control_plane.policies import PlacementPolicy, hybrid_with, policy_named
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.engines.connection import Broken
from sage_inference.engines.descriptors import Descriptors
from sage_inference.engines.detect import Detected
from sage_inference.engines.dialects import Dialect, dialect_of
from sage_inference.engines.missing_route import STATUSES as NO_ROUTE
from sage_inference.engines.missing_route import kind_without, means_no_route
from sage_inference.engines.permits import calls_at_once
from sage_inference.engines.pool import Address, Pool
from sage_inference.engines.sleep import SleepProbe
from sage_inference.gateway.access_log import AccessLog
from sage_inference.gateway.backlog import Backlog
from sage_inference.gateway.bodies import Bodies
from sage_inference.gateway.coded_body import Decoding
from sage_inference.gateway.connection_limit import ConnectionLimit, LimitedConnection
from sage_inference.gateway.cors import grant_lines
from sage_inference.gateway.embeddings.service import EmbeddingService
from sage_inference.gateway.embeddings.text_limits import limits_of
from sage_inference.gateway.exchange_types import exchanges_for
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.relay.coalescing import Coalescer
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.request_ids import RequestIds
from sage_inference.gateway.stats import Stats
from sage_inference.gateway.stored_responses import StoredResponses
from sage_inference.gateway.tenants import tenants
from sage_inference.requests.body import read, with_model
from sage_inference.requests.output_limits import asked_output
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.requests.routes import Route
from sage_inference.telemetry.decisions.recorder import Watcher
from sage_inference.telemetry.metrics import Histogram, RecentMean
from sage_inference.types import (
    EngineKind,
    EngineState,
    ExecutionInstance,
    RequestPriority,
    RequestType,
    SchedulingRequest,
)
from sage_inference.wire.head_cache import HeadCache
from sage_inference.wire.isolation import report
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.timers import TimerWheel

TTFB_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCHED_TOKENS = 8192  # vLLM's max_num_batched_tokens by default
TEI_BATCH_TOKENS = 16384
SHORT_BYTES = 2048  # of a prompt: some 512 tokens, far less than an engine takes at a time
MOST_KNOWN = 1024  # heads of requests that are remembered; beyond, it begins anew
STALL_S = 0.3  # time in which the loop did not run, from which what was under way is not measured
NOTABLE_STALL_S = 1.0  # from which it is logged
_TOKENIZE = RequestType.TOKENIZE  # as a global: an enum's members are looked up by a Python call

log = logging.getLogger("sage_inference.gateway")


def trusted_by(settings: InstanceSettings) -> trust.Stamp | None:
    """Changes when a connection to the instance would trust other certificates."""
    return trust.stamp(settings.ca_file) if settings.url.lower().startswith("https:") else None


class Upstream:
    """One configured instance: what it is, how it fares, and the connections to it."""

    def __init__(
        self,
        settings: InstanceSettings,
        instance: ExecutionInstance,
        address: Address,
        gateway: Gateway,
    ) -> None:
        self.settings = settings
        self.instance = instance
        self.address = address
        self.pool = Pool(address, gateway.turn, gateway.descriptors, settings.ca_file)
        self.trusted = trusted_by(settings)
        self.health = Health(gateway.settings.health)
        self.dialect: Dialect = dialect_of(EngineKind.OPENAI)
        self.detected: Detected | None = None
        self.sleep = SleepProbe()
        self.room = CallWindow(limits_of(None, self.dialect))  # for embedding calls
        self.missing_routes: set[str] = set()  # it was thought to have them, and answered that it has not
        self.last_error: str | None = None
        self.drained_by_admin = False
        self.doubted = True  # whether a good answer would change what is thought of it
        self.said = (instance.state, False)  # what was last logged: see ``Fleet``
        self.lost = asyncio.Event()  # its watcher is to go on: it went out of service, or is to be looked at
        self.look_wanted = False  # whether it may list other models by now
        self.looked_at = self.refreshed_at = -math.inf  # when its models were last asked for; and all of it
        self.differs: str | None = None  # how its vectors differ from those of its model's other instances
        self.ttfb = Histogram(TTFB_BUCKETS)  # from sending a request to the first byte of its answer's body
        self.recent_ttfb = RecentMean(self.ttfb)
        self.header = b"x-sage-instance: %b\r\n" % quote(instance.instance_id, safe=":.[]-_@/ ").encode()
        self.id_end = b"\r\n" + self.header  # what follows the request's id in the head of an answer
        self._on_change = gateway.instances_changed
        self._gateway = gateway
        self._on_loss = gateway.manager.instance_down
        key = settings.api_key.reveal() if settings.api_key else None
        self.api_key = key
        self._own_headers = b" HTTP/1.1\r\nhost: %b\r\nvia: 1.1 %b\r\n" % (
            address.authority.encode(),
            gateway.guard.via,
        )
        if key is not None:
            self._own_headers += b"authorization: Bearer %b\r\n" % key.encode()
        self.starts: dict[RequestHead, bytes] = {}  # see ``start_of``
        self.configure()

    def configure(self) -> None:
        """Take over the gateway's settings of all instances."""
        gateway = self._gateway
        # The caller's own key goes on only where neither we nor the engine were given one.
        self.keeps_callers_key = self.api_key is None and not gateway.guard.has_keys
        self.starts.clear()
        self.health.use(gateway.settings.health, time.monotonic())
        self.lost.set()  # its watcher looks anew when the next probe is due

    def request_prefix(self, route: Route, target: bytes) -> bytes:
        """The request line and our own headers. ``target`` is the path and query as the caller sent it."""
        path, detected = self.dialect.path_for(route.engine_path or route.path), self.detected
        if detected is not None:
            path = detected.paths.get(path, path)
            if detected.bare:
                path = path.removeprefix("/v1")
        path = self.address.prefix + path
        _, mark, query = target.partition(b"?")
        return f"{route.method} {path}".encode() + mark + query + self._own_headers

    def start_of(self, head: RequestHead) -> bytes:
        """How a request of this head begins when it is sent here; kept in ``starts`` for heads that come again."""
        start = self.request_prefix(head.route, head.target)
        start += head.keyed_lines if self.keeps_callers_key else head.lines
        if head.comes_again:
            if len(self.starts) >= MOST_KNOWN:
                self.starts.clear()
            self.starts[head] = start
        return start

    @property
    def api_url(self) -> str:
        """Where the routes of OpenAI's API are."""
        return self.address.url + ("" if self.detected is not None and self.detected.bare else "/v1")

    def may_lack_route(self, status: int) -> bool:
        """Whether an answer of this status may mean that it has no such route: see ``lacks_route``."""
        return status in NO_ROUTE and self.detected is not None and self.detected.guessed

    def lacks_route(self, status: int, route: str, body: bytes) -> bool:
        """Whether its answer means that it has no such route; if so, it is not asked there again."""
        detected = self.detected
        if detected is None or not detected.guessed or not means_no_route(status, body, len(detected.models)):
            return False
        if self._answered_alone(route):  # it has the route, and means something else
            return False
        if route not in self.missing_routes:
            self.missing_routes.add(route)
            self.adopt(detected)
            self._on_change()
        return True

    def _answered_alone(self, route: str) -> bool:
        """Whether the route was answered well before, and by no other instance, because none has it."""
        gateway = self._gateway
        others = (engine for engine in gateway.engines.values() if engine is not self)
        answered = gateway.stats.outcomes.get((route, 200))
        return bool(answered) and not any(route in other.instance.routes for other in others)

    def adopt(self, detected: Detected) -> None:
        """Take over the result of the detection."""
        instance = self.instance
        changed, self.detected = detected != self.detected, detected
        self.dialect = dialect_of(detected.engine)
        if changed:  # else what its refusals taught still holds
            self.room.limits = limits_of(detected, self.dialect)
        self.starts.clear()
        instance.engine = detected.engine
        instance.instance_type = kind_without(detected.kind, self.missing_routes)
        instance.models = tuple(model.id for model in detected.models)
        instance.model_name = instance.models[0] if instance.models else ""
        withheld = VECTOR_ROUTES if self.differs else frozenset()
        instance.routes = detected.routes - withheld - self.missing_routes
        instance.context_tokens = _context_tokens(detected)
        instance.tagged = detected.tagged
        if not self.settings.max_concurrent_requests:  # TEI refuses what is beyond
            instance.max_concurrent_requests = calls_at_once(detected)
        instance.simulated = detected.simulated
        self.set_window(self._gateway.settings.scheduling.late_binding)

    @property
    def lists_nothing(self) -> bool:
        """Whether it was asked what it is, and named no model."""
        return self.detected is not None and not self.detected.models

    @property
    def withheld(self) -> str | None:
        """Why it gets no work, or not all that it could do, though it is well."""
        if self.sleep.asleep:
            return f"POST {self.address.url}/wake_up wakes it"
        return "lists no model yet" if self.lists_nothing else self.differs

    def embeds(self, model: str) -> bool:
        """Whether it serves the model's vectors, and is well."""
        instance = self.instance
        serves = "/v1/embeddings" in instance.routes and model in instance.models
        return serves and instance.state is EngineState.READY

    def withhold_embeddings(self, differs: str | None) -> None:
        """Its vectors are not those of the model's other instances: nobody gets them. None: they are again."""
        self.differs = self.last_error = differs
        if self.detected is not None:
            self.adopt(self.detected)

    def set_window(self, late_binding: bool) -> None:
        """How many prompt tokens may be sent ahead of its answers."""
        tokens = self.settings.max_batched_tokens or (
            2 * self._tei_batch_tokens() if self.instance.engine is EngineKind.TEI else BATCHED_TOKENS
        )
        self.instance.load.window_tokens = tokens if late_binding else math.inf

    def _tei_batch_tokens(self) -> int:
        known = self.detected.limits.get("max_batch_tokens") if self.detected else None
        return known or TEI_BATCH_TOKENS

    # Called by the relay

    @property
    def ttft_ms(self) -> float | None:
        """The mean time to a first byte of the last ten seconds with answers; None before the first."""
        recent = self.recent_ttfb.value
        return None if recent is None else 1000 * recent

    def answered(self, status: int) -> None:
        """The head of an answer came that shows something of its health: see ``doubted``."""
        if status == 404:  # perhaps a model that it does not have any more
            self.look_again()
        if status >= 500 or self.doubted:
            self.health.answered(status, time.monotonic())
            self.last_error = f"answered {status}" if status >= 500 else None
            self.sync()

    def look_again(self) -> None:
        """Have its watcher ask soon which models it lists."""
        if not self.look_wanted:
            self.look_wanted = True
            self.lost.set()

    def failed(self, how: Broken) -> None:
        now = time.monotonic()
        if how is Broken.REFUSED:
            self.health.refused(now)
            self.pool.drop_idle()
            self.last_error = "refused a connection"
        else:
            self.health.answered(502, now)
            self.last_error = "closed a connection" if how is Broken.CLOSED else "sent no valid HTTP"
        self.sync()

    def gave_up(self, outcome: str) -> None:
        """It ended an answer early, or with an error: see ``relay.ending``."""
        self.health.gave_up(time.monotonic())
        self.lost.set()
        self.last_error = "aborted an answer" if outcome == "aborted" else "ended an answer with an error"
        self.sync()

    def draining(self) -> None:
        self.health.draining(time.monotonic())
        self.last_error = "is shutting down"
        self.sync()

    def sync(self) -> None:
        """Set the instance's state by its health."""
        instance = self.instance
        self.doubted = self.health.doubted or self.health.state is not EngineState.READY
        if instance.state is EngineState.STOPPED or self.drained_by_admin:
            return
        state = self.health.state
        if state is EngineState.READY:
            if self.sleep.asleep:
                state = EngineState.ASLEEP
            elif self.lists_nothing:
                state = EngineState.STARTING
            elif self.differs and not instance.instance_type.serves_llm:
                state = EngineState.EJECTED
        if instance.state is not state:
            instance.state = state
            if state is not EngineState.READY:
                self._on_loss(instance)
                self.lost.set()
            self._on_change()


class Gateway:
    """The state behind one gateway's sockets. Made inside a running event loop."""

    def __init__(self, settings: Settings, wheel: TimerWheel, admin_token: str | None = None) -> None:
        self.wheel = wheel
        self._loop = asyncio.get_running_loop()
        self.turn = LoopBatch(self._loop.call_soon)
        self.bodies = Bodies()
        self.backlog = Backlog(self._loop.call_soon)
        self.decoding = Decoding(self._loop)
        self.clock = time.monotonic
        self.stalled_at = 0.0  # when this process last went on after it had not run for a while
        wheel.on_stall = self._stalled
        self.coalescer = Coalescer(self._loop, self.clock)
        self._started_at = time.monotonic()
        self._admin_token = admin_token
        self.registry = Registry(settings.aliases)
        self._llm_fallback = settings.scheduling.llm_fallback_policy
        self.manager = Scheduler(self.registry, self.new_policy(settings.scheduling.policy), settings.limits)
        self.manager.alarm = self._wake_at
        self.manager.later = self.turn.later
        self.manager.report = partial(report, what="the manager")
        self._waking: asyncio.TimerHandle | None = None
        self.decisions = Watcher(self.manager)
        self.engines: dict[str, Upstream] = {}
        self.responses = StoredResponses(self.engines)
        self.exchanges = exchanges_for(())
        self.embeddings = EmbeddingService(self, _rules(settings))
        self.stats = Stats()
        self.draining = False
        self.connections = 0
        self.descriptors = Descriptors(lambda: self.connections, self._give_up_one)
        self.callers: set[LimitedConnection] = set()  # the server's; it adds and removes them
        self.connection_limit = ConnectionLimit(lambda: self.callers, lambda: wheel.now, self.descriptors)
        self._id_start = os.urandom(6).hex().encode()
        self._ids = 0
        self.request_ids = RequestIds(b"req-" + self._id_start, self.new_id, self._loop.call_later)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over new settings. Requests under way keep their rights and meet a new time-out at their next step.

        Raises ``ConfigError``, ``SecretError``, and then changes nothing.
        """
        # First all that can fail.
        record_file = self.decisions.file_at(settings.scheduling.record_file)
        guard = Guard(settings, self._id_start.decode(), self._admin_token)
        self.settings = settings
        # Requests' heads that were parsed and found good; a new guard may judge anew.
        self.known_heads: HeadCache[RequestHead] = HeadCache(MOST_KNOWN)
        self.guard = guard
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
        self.embeddings.aggregator.configure(_rules(settings))
        self.decisions.record_to(record_file)
        self._schedule(settings)
        for engine in self.engines.values():
            engine.configure()

    def _schedule(self, settings: Settings) -> None:
        """Pass the settings of scheduling to the manager."""
        manager, scheduling = self.manager, settings.scheduling
        manager.limits = settings.limits
        manager.slos.configure(scheduling.slo)
        manager.llm_share = llm_share(scheduling)
        manager.books.reads_all_usage = scheduling.record_file is not None
        manager.tenants.weights = {name: key.weight for name, key in tenants(settings.api_keys)}
        self._key_priority = {
            name: RequestPriority[key.priority.upper()]
            for name, key in tenants(settings.api_keys)
            if key.priority
        }
        for engine in self.engines.values():
            engine.set_window(scheduling.late_binding)
        manager.prefer_specialized(scheduling.prefer_specialized_instances)
        fallback, self._llm_fallback = self._llm_fallback, scheduling.llm_fallback_policy
        changed = {"hybrid"} if fallback != self._llm_fallback else set()

        def policy(name: str, kept: PlacementPolicy | None) -> PlacementPolicy:
            if kept is None or kept.name != name or name in changed:
                return self.new_policy(name)
            return kept

        by_model = {
            model: policy(name, manager.policies.get(model)) for model, name in scheduling.policies.items()
        }
        manager.use(policy(scheduling.policy, manager.policy), by_model)

    def new_policy(self, name: str) -> PlacementPolicy:
        """Raises ``KeyError`` for one that there is not."""
        return hybrid_with(self._llm_fallback) if name == "hybrid" else policy_named(name)

    def tick(self) -> None:
        """To be called about once a second."""
        self.manager.rates.tick(self.clock())
        self.descriptors.renew()
        for engine in self.engines.values():
            engine.recent_ttfb.tick()

    def _stalled(self, lost_s: float) -> None:
        """The event loop did not run for so long: nobody is judged by that time, and nothing is learned from it."""
        if lost_s < STALL_S:
            return
        self.stalled_at = self.clock()
        self.manager.stalled(lost_s)
        for engine in self.engines.values():
            engine.room.stalled_at = self.stalled_at
        if lost_s >= NOTABLE_STALL_S:
            log.warning(
                "this process did not run for %.1f s (suspended, or held up): all deadlines move by that time",
                lost_s,
            )

    def ran_since(self, at: float) -> bool:
        """Whether this process ran all the time since ``at``, so that the time since then measures others.

        The loop reads sockets before it ticks: without a look at the clock, the first answers after a suspension
        would be judged as if there had been none.
        """
        self.wheel.advance()
        return at > self.stalled_at

    @property
    def uptime_s(self) -> float:
        """Since the start; the wall clock may be set meanwhile."""
        return time.monotonic() - self._started_at

    def shrink(self) -> None:
        """A crowd has left: let go of the connections to engines that only it needed."""
        for engine in self.engines.values():
            engine.pool.shrink()

    def _give_up_one(self) -> bool:
        """Descriptors are short: close a connection that nobody uses, of an engine rather than of a caller."""
        pools = [engine.pool for engine in self.engines.values()]
        if pools and max(pools, key=lambda pool: pool.idle).give_up_one():
            return True
        return self.connection_limit.close_one()

    def _wake_at(self, when: float) -> None:
        """The manager can place something then, though nothing else may happen."""
        if self._waking is not None:  # otherwise each alarm would set another one, without end
            self._waking.cancel()
        self._waking = self._loop.call_later(max(0.0, when - self.clock()), self.manager.dispatch)

    def instances_changed(self) -> None:
        """An instance came, went, recovered or changed: groups and waiting requests are looked at anew."""
        self.registry.changed()
        self.exchanges = exchanges_for(self.registry.instances.values())
        self._track_prompts()
        self.manager.dispatch()
        self._look_at_output()
        self.embeddings.pump_soon()

    def _track_prompts(self) -> None:
        """Where nobody can choose, it is of no use to know which short prompts are cached, but for a record."""
        matters = self.registry.offers_choice or self.settings.scheduling.record_file
        self.shortest = 0 if matters else SHORT_BYTES

    def _look_at_output(self) -> None:
        """How long an answer a request asks for matters where it is limited, or fits only some of the instances."""
        limits = self.limits
        limited = limits.max_n is not None or limits.max_completion_tokens is not None
        self.looks_at_output = limited or bool(self.manager.uneven)

    # For the relay

    def new_id(self) -> bytes:
        """An id for a request whose caller gave none."""
        self._ids += 1
        return b"req-%b%08x" % (self._id_start, self._ids)

    def cors_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        if not self.settings.server.cors_origins:
            return b""
        for name, value in headers:
            if name == b"origin":
                allowed = self.guard.allowed_origin(value)
                if allowed is not None:
                    return grant_lines(allowed)
        return b""

    def classify(self, exchange: Exchange) -> SchedulingRequest:
        """The request as the scheduler sees it, without the results of ``Exchange.measure``.

        Its body is changed only where it names an alias or no model.
        """
        head = exchange.head
        route, kind = head.route, head.route.type
        asked = read(route, exchange.body)
        named = asked.model
        output = asked_output(exchange.body, self.limits) if self.looks_at_output and kind.is_llm else 0
        model = named or self._implied_model(route)
        if model in self.registry.names:
            model = self.registry.resolve(model)
        if model != named and (named is not None or route.names_model):
            exchange.body = with_model(route, exchange.body, model)
        exchange.prompt = prompt = asked.prompt
        request = SchedulingRequest(
            exchange.request_id.decode("latin-1"),
            kind,
            model,
            route.path,
            tenant=head.tenant or asked.user,
            arrived=exchange.queued_at,
            streams=asked.streams,
            session=asked.user,
            prompt_bytes=0 if kind is _TOKENIZE else len(prompt),  # text that is only tokenized is no work
        )
        if output:
            request.output_tokens = output
        if self._key_priority or head.asks is not None:
            self._heed_headers(request, head)
        return request

    def _heed_headers(self, request: SchedulingRequest, head: RequestHead) -> None:
        """Priority, deadline and session, as the caller asks; a key may bound the priority."""
        bound = self._key_priority.get(head.tenant)
        if bound is not None:
            request.priority = bound
        asks = head.asks
        if asks is not None:
            if asks.refusal is not None:
                raise asks.refusal
            if asks.priority is not None:
                request.priority = max(asks.priority, bound or RequestPriority.CRITICAL)
            request.slo_deadline_ms = asks.deadline_ms
            request.session = asks.session or request.session

    def _implied_model(self, route: Route) -> str:
        settings = self.settings
        serving = self.registry.staying(route.path)
        default = settings.embedding_model if not route.type.is_llm else settings.llm_model
        served = self.registry.models(serving)
        if default is not None:
            default = self.registry.resolve(default)
            if default in served or not served:
                return default
        if len({i.models for i in serving if i.models}) == 1:
            return served[0]
        if served:
            raise Rejection(Reason.BAD_REQUEST, f"'model' is needed; served: {', '.join(served)}", "model")
        raise unserved_route(self.registry, route.path)

    @property
    def can_serve(self) -> bool:
        """True while at least one instance takes requests."""
        return any(i.is_available for i in self.registry.instances.values())

    @property
    def in_flight(self) -> int:
        return sum(i.active_requests for i in self.registry.instances.values())


def _context_tokens(detected: Detected) -> dict[str, int]:
    """The tokens that prompt and answer of each model may have together; an adapter has its base model's."""
    known = {card.id: card.max_model_len for card in detected.models}
    found = {
        card.id: card.max_model_len or known.get(str(card.raw.get("parent"))) for card in detected.models
    }
    return {model: length for model, length in found.items() if length}


def _rules(settings: Settings) -> AggregationRules:
    scheduling = settings.scheduling
    return AggregationRules(
        max_texts=scheduling.embedding_batch_size,
        min_texts=scheduling.min_embedding_batch_size,
        max_wait_s=scheduling.max_embedding_wait_ms / 1000,
        merges=scheduling.enable_embedding_batching,
        cache_bytes=scheduling.embedding_cache_bytes,
    )


def llm_share(scheduling: SchedulingSettings) -> float | None:
    """The share of a shared GPU's time that embeddings leave to LLM work; None: as much as streams need."""
    ratio = scheduling.hybrid_instance_ratio
    return {"high": 0.0, "normal": ratio, "low": (1 + ratio) / 2, "adaptive": None}[
        scheduling.embedding_priority
    ]
