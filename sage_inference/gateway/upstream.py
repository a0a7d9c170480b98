"""One configured instance: what it is, how it fares, and the connections to it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol
from urllib.parse import quote

from sage_inference import trust
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.control_plane.embedding import CallWindow
from sage_inference.control_plane.instances.health import Health
from sage_inference.control_plane.instances.registry import VECTOR_ROUTES
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
from sage_inference.gateway.embeddings.text_limits import limits_of
from sage_inference.gateway.guard import Guard
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.stats import Stats
from sage_inference.requests.routes import Route
from sage_inference.telemetry.metrics import Histogram, RecentMean
from sage_inference.types import EngineKind, EngineState, ExecutionInstance
from sage_inference.wire.loop_batch import LoopBatch

TTFB_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCHED_TOKENS = 8192  # vLLM's max_num_batched_tokens by default
TEI_BATCH_TOKENS = 16384
MOST_STARTS = 1024  # beginnings of requests that are kept; beyond, keeping begins anew


class Surroundings(Protocol):
    """What an upstream needs of its gateway."""

    settings: Settings
    loop_batch: LoopBatch
    descriptors: Descriptors
    guard: Guard
    engines: dict[str, Upstream]
    stats: Stats
    manager: Scheduler

    def instances_changed(self) -> None: ...


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
        gateway: Surroundings,
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
        # Seconds from sending a request to the first byte of its answer's body: of streams, and of all else.
        self.ttft, self.ttfb = Histogram(TTFB_BUCKETS), Histogram(TTFB_BUCKETS)
        self.recent_ttft, self.recent_ttfb = RecentMean(self.ttft), RecentMean(self.ttft, self.ttfb)
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
            if len(self.starts) >= MOST_STARTS:
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
        """The mean time to a stream's first byte in the last ten seconds with streams; None before the first."""
        recent = self.recent_ttft.value
        return None if recent is None else 1000 * recent

    @property
    def ttfb_ms(self) -> float | None:
        """The same of all answers."""
        recent = self.recent_ttfb.value
        return None if recent is None else 1000 * recent

    def tick(self) -> None:
        """To be called about once a second."""
        self.recent_ttft.tick()
        self.recent_ttfb.tick()

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


def _context_tokens(detected: Detected) -> dict[str, int]:
    """The tokens that prompt and answer of each model may have together; an adapter has its base model's."""
    known = {card.id: card.max_model_len for card in detected.models}
    found = {
        card.id: card.max_model_len or known.get(str(card.raw.get("parent"))) for card in detected.models
    }
    return {model: length for model, length in found.items() if length}
