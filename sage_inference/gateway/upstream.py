"""One configured instance: its detected facts, its health, and the connections to it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Protocol
from urllib.parse import quote

from sage_inference import trust
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.control_plane.embedding import CallWindow
from sage_inference.control_plane.instances.health import Health
from sage_inference.control_plane.instances.registry import VECTOR_ROUTES
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.engines.descriptors import Descriptors
from sage_inference.engines.detect import Detected
from sage_inference.engines.dialects import Dialect, dialect_of
from sage_inference.engines.missing_route import STATUSES as NO_ROUTE
from sage_inference.engines.missing_route import kind_without, means_no_route
from sage_inference.engines.permits import calls_at_once
from sage_inference.engines.pool import Address, Pool
from sage_inference.engines.receiver import Broken
from sage_inference.engines.sleep import SleepProbe
from sage_inference.gateway.embeddings.text_limits import limits_of
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.stats import Stats
from sage_inference.requests.routes import Route
from sage_inference.telemetry.exposition import Histogram, RecentMean
from sage_inference.types import EngineKind, EngineState, ExecutionInstance, ExecutionInstanceType
from sage_inference.wire.loop_batch import LoopBatch

TTFB_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)
BATCHED_TOKENS = 8192  # vLLM's default of max_num_batched_tokens
TEI_BATCH_TOKENS = 16384
MOST_STARTS = 1024  # beginnings of requests that are cached; the cache is emptied when it is full


class UpstreamContext(Protocol):
    """The part of its gateway that an upstream needs."""

    settings: Settings
    loop_batch: LoopBatch
    descriptors: Descriptors
    guard: Guard
    engines: dict[str, Upstream]
    stats: Stats
    scheduler: Scheduler

    def instances_changed(self) -> None: ...


def trusted_by(settings: InstanceSettings) -> trust.Stamp | None:
    """A stamp that changes when a new connection to the instance would trust other certificates."""
    return trust.stamp(settings.ca_file) if settings.url.lower().startswith("https:") else None


class Upstream:
    """One configured instance: its detected facts, its health, and the connections to it."""

    def __init__(
        self,
        settings: InstanceSettings,
        instance: ExecutionInstance,
        address: Address,
        gateway: UpstreamContext,
    ) -> None:
        self.settings = settings
        self.instance = instance
        self.address = address
        self.pool = Pool(address, gateway.loop_batch, gateway.descriptors, settings.ca_file)
        self.trusted = trusted_by(settings)
        self.health = Health(gateway.settings.health)
        self.dialect: Dialect = dialect_of(EngineKind.OPENAI)
        self.detected: Detected | None = None
        self.sleep = SleepProbe()
        self.window = CallWindow(limits_of(None, self.dialect))  # for embedding calls
        self.missing_routes: set[str] = set()  # guessed routes that the engine answered not to have
        self.last_error: str | None = None
        self.drained_by_admin = False
        self.doubted = True  # whether a good answer would change the health
        self.logged = (instance.state, False)  # the state that was last logged: see ``Fleet``
        self.wakeup = asyncio.Event()  # wakes the watcher: out of service, or a look is wanted
        self.look_wanted = False  # whether the engine may list other models by now
        self.looked_at = self.detected_at = -math.inf  # the last question for its models; the last detection
        self.differs: str | None = None  # how its vectors differ from those of the model's other instances
        # Seconds from sending a request to the first byte of its answer's body: of streams, and of other answers.
        self.ttft, self.ttfb = Histogram(TTFB_BUCKETS), Histogram(TTFB_BUCKETS)
        self.tpot, self.gaps = Histogram(TPOT_BUCKETS), Histogram(TPOT_BUCKETS)  # of streams: see the metrics
        self.ejections = 0
        self.recent_ttft, self.recent_ttfb = RecentMean(self.ttft), RecentMean(self.ttft, self.ttfb)
        self.header = b"x-sage-instance: %b\r\n" % quote(instance.instance_id, safe=":.[]-_@/ ").encode()
        self.id_end = b"\r\n" + self.header  # the bytes after the request's id in the head of an answer
        self._on_change = gateway.instances_changed
        self._gateway = gateway
        self._on_loss = gateway.scheduler.instance_down
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
        """Apply the gateway's settings that hold for all instances."""
        gateway = self._gateway
        # The caller's own key is sent on only if neither the gateway nor the instance has a key configured.
        self.keeps_callers_key = self.api_key is None and not gateway.guard.has_keys
        self.starts.clear()
        self.health.use(gateway.settings.health, time.monotonic())
        self.wakeup.set()  # the watcher computes anew when the next probe is due

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
        """The first bytes of a request with this head to this instance. ``starts`` caches them for cached heads."""
        start = self.request_prefix(head.route, head.target)
        start += head.keyed_lines if self.keeps_callers_key else head.lines
        if head.is_cached:
            if len(self.starts) >= MOST_STARTS:
                self.starts.clear()
            self.starts[head] = start
        return start

    @property
    def api_url(self) -> str:
        """The URL below which the routes of OpenAI's API are."""
        return self.address.requests_url + ("" if self.detected is not None and self.detected.bare else "/v1")

    def may_lack_route(self, status: int) -> bool:
        """Whether an answer of this status may mean that the engine has no such route: see ``lacks_route``."""
        return status in NO_ROUTE and self.detected is not None and self.detected.guessed

    def lacks_route(self, status: int, route: str, body: bytes) -> bool:
        """Whether an answer means that the engine has no such route. If so, the route is not asked for again."""
        detected = self.detected
        if detected is None or not detected.guessed or not means_no_route(status, body, len(detected.models)):
            return False
        if self._answered_alone(route):  # the engine has the route, and the answer means something else
            return False
        if route not in self.missing_routes:
            self.missing_routes.add(route)
            self.adopt(detected)
            self._on_change()
        return True

    def _answered_alone(self, route: str) -> bool:
        """Whether the route was answered with 200 before, and no other instance has it: this one answered then."""
        gateway = self._gateway
        others = (upstream for upstream in gateway.engines.values() if upstream is not self)
        answered = gateway.stats.outcomes.get((route, 200))
        return bool(answered) and not any(route in other.instance.routes for other in others)

    def adopt(self, detected: Detected) -> None:
        """Apply the result of a detection."""
        instance = self.instance
        changed, self.detected = detected != self.detected, detected
        self.dialect = dialect_of(detected.engine)
        if changed:  # otherwise limits that were learned from refusals still hold
            self.window.use(limits_of(detected, self.dialect))
        self.starts.clear()
        instance.engine = detected.engine
        instance.instance_type = kind_without(detected.kind, self.missing_routes)
        instance.models = tuple(model.id for model in detected.models)
        instance.model_name = instance.models[0] if instance.models else ""
        withheld = VECTOR_ROUTES if self.differs else frozenset()
        instance.routes = detected.routes - withheld - self.missing_routes
        instance.context_tokens = _context_tokens(detected)
        instance.tagged = detected.tagged
        if not self.settings.max_concurrent_requests:  # TEI refuses requests above its own limit
            instance.max_concurrent_requests = calls_at_once(detected)
        instance.simulated = detected.simulated
        self.set_window(self._gateway.settings.scheduling.late_binding)

    def start_as(self, detected: Detected) -> None:
        """Count as healthy, with these facts: the engine has just answered."""
        self.adopt(detected)
        self.sleep = SleepProbe(*self.dialect.sleep_paths)
        self.health.probe_ok(time.monotonic())

    def undrain(self) -> None:
        """Take new requests again."""
        self.drained_by_admin = False
        self.sync()

    @property
    def lists_nothing(self) -> bool:
        """Whether the engine was detected, and listed no model."""
        return self.detected is not None and not self.detected.models

    @property
    def withheld(self) -> str | None:
        """The reason why a healthy engine gets no work, or only a part of the work that it could do."""
        if self.sleep.asleep:
            return f"POST {self.address.url}/wake_up wakes it"
        return "lists no model yet" if self.lists_nothing else self.differs

    def embeds(self, model: str) -> bool:
        """Whether the engine serves the model's vectors, and is ready."""
        instance = self.instance
        serves = "/v1/embeddings" in instance.routes and model in instance.models
        return serves and instance.state is EngineState.READY

    def withhold_embeddings(self, differs: str | None) -> None:
        """Serve no vectors while they differ from those of the model's other instances. None: they agree again."""
        self.differs = self.last_error = differs
        if self.detected is not None:
            self.adopt(self.detected)

    def set_window(self, late_binding: bool) -> None:
        """Set the number of prompt tokens that may be sent before the engine answers."""
        tokens: float = self.settings.max_batched_tokens
        if not tokens:
            instance = self.instance
            if instance.instance_type is ExecutionInstanceType.EMBEDDING and VECTOR_ROUTES & instance.routes:
                tokens = math.inf  # ``CallWindow`` learns how many of its calls pay
            elif instance.engine is EngineKind.TEI:
                tokens = 2 * self._tei_batch_tokens()
            else:
                tokens = BATCHED_TOKENS
        self.instance.load.window_tokens = tokens if late_binding else math.inf

    def _tei_batch_tokens(self) -> int:
        known = self.detected.limits.get("max_batch_tokens") if self.detected else None
        return known or TEI_BATCH_TOKENS

    # Called by the relay

    @property
    def ttft_ms(self) -> float | None:
        """The mean time to a stream's first byte, over the last ten seconds with streams; None before the first."""
        recent = self.recent_ttft.value
        return None if recent is None else 1000 * recent

    @property
    def ttfb_ms(self) -> float | None:
        """The same for all answers."""
        recent = self.recent_ttfb.value
        return None if recent is None else 1000 * recent

    def tick(self) -> None:
        """Has to be called about once a second."""
        self.recent_ttft.tick()
        self.recent_ttfb.tick()

    def answered(self, status: int) -> None:
        """Update the health by the head of an answer, which came with an error status or while ``doubted``."""
        if status == 404:  # perhaps the engine does not have the model any more
            self.look_again()
        if status >= 500 or self.doubted:
            self.health.answered(status, time.monotonic())
            self.last_error = f"answered {status}" if status >= 500 else None
            self.sync()

    def pieces_due(self) -> frozenset[tuple[int, float]]:
        """The answers under way, each with its deadline. A deadline moves when a piece comes."""
        return frozenset((id(each), _deadline_of(each)) for each in self.pool.answering())

    def look_again(self) -> None:
        """Make the watcher ask soon which models the engine lists."""
        if not self.look_wanted:
            self.look_wanted = True
            self.wakeup.set()

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
        """Count an answer that the engine ended early, or with an error: see ``relay.ending``."""
        self.health.gave_up(time.monotonic())
        self.wakeup.set()
        self.last_error = "aborted an answer" if outcome == "aborted" else "ended an answer with an error"
        if outcome == "aborted" and self.dialect.abort_remedy:
            self.last_error += f"; {self.dialect.abort_remedy}"
        self.sync()

    def died(self) -> None:
        """Count the engine's own report that it is dead. It gets no requests until a probe finds it again."""
        self.health.refused(time.monotonic())
        self.last_error = "reported that its core died"
        self.sync()

    def draining(self) -> None:
        self.health.draining(time.monotonic())
        self.last_error = "is shutting down"
        self.sync()

    def sync(self) -> None:
        """Derive the instance's state from the health."""
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
            if state is EngineState.EJECTED:
                self.ejections += 1
            if state is not EngineState.READY:
                self._on_loss(instance)
                self.wakeup.set()
            self._on_change()


def _deadline_of(receiver: Any) -> float:
    """A request's deadline is its caller's. A call has its own."""
    return float(getattr(receiver, "caller", receiver).deadline)


def _context_tokens(detected: Detected) -> dict[str, int]:
    """For each model the tokens that prompt and answer may have together. An adapter has its base model's."""
    known = {card.id: card.max_model_len for card in detected.models}
    found = {
        card.id: card.max_model_len or known.get(str(card.raw.get("parent"))) for card in detected.models
    }
    return {model: length for model, length in found.items() if length}
