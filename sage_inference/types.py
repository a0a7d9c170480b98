"""The field's words as values: requests, instances, decisions, and the enumerations they use."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from sage_inference import engine_url
from sage_inference.choices import Choice, member_of


class RequestType(Choice, StrEnum):
    """The kind of work of a request. One value for each family of routes."""

    LLM_CHAT = "llm_chat"
    LLM_GENERATE = "llm_generate"
    EMBEDDING = "embedding"
    RESPONSES = "responses"
    MESSAGES = "messages"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    POOLING = "pooling"
    TOKENIZE = "tokenize"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    SIMILARITY = "similarity"

    is_llm: bool  # True for work that generates tokens


_LLM_TYPES = (RequestType.LLM_CHAT, RequestType.LLM_GENERATE, RequestType.RESPONSES, RequestType.MESSAGES)
for _kind in RequestType:  # asked of every request: looking it up in a set would hash an enum, in Python
    _kind.is_llm = _kind in _LLM_TYPES


class RequestPriority(Choice, IntEnum):
    """Lower is sooner, so that priorities sort as they read."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4


class RequestStatus(Choice, StrEnum):
    """Where a request stands, as a caller sees it."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExecutionInstanceType(Choice, StrEnum):
    """The kinds of work that an instance takes. ``llm`` and ``mixed`` are read as GENERAL and LLM_EMBEDDING."""

    GENERAL = "general"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HYBRID = "hybrid"
    EMBEDDING = "embedding"
    LLM_EMBEDDING = "llm_embedding"

    @classmethod
    def _missing_(cls, value: object) -> ExecutionInstanceType | None:
        spoken = {"llm": cls.GENERAL, "mixed": cls.LLM_EMBEDDING}
        word = value.strip().lower() if isinstance(value, str) else ""
        return spoken[word] if word in spoken else super()._missing_(value)

    @property
    def serves_llm(self) -> bool:
        return self is not ExecutionInstanceType.EMBEDDING

    @property
    def serves_embeddings(self) -> bool:
        return self in (ExecutionInstanceType.EMBEDDING, ExecutionInstanceType.LLM_EMBEDDING)


class EngineKind(Choice, StrEnum):
    """The dialect of an instance."""

    VLLM = "vllm"
    TEI = "tei"
    OPENAI = "openai"


class EngineState(Choice, StrEnum):
    """Whether an instance can be given work."""

    STARTING = "starting"  # not yet seen healthy
    READY = "ready"
    ASLEEP = "asleep"  # well, and answers no request until it is woken
    EJECTED = "ejected"  # failing; tried again after a back-off
    DRAINING = "draining"  # finishes what it has, takes nothing new
    STOPPED = "stopped"


class Slo(msgspec.Struct, frozen=True, gc=False):
    """Service level objectives, in milliseconds: to the first token, and of each token after it; and where each is stated.

    ``ttft_ms`` is ``ttft_times`` what is stated at ``ttft_from``: a low priority lengthens what is not stated for it.
    """

    ttft_ms: float
    tpot_ms: float
    ttft_from: str = "default"
    tpot_from: str = "default"
    ttft_times: float = 1.0


PROMPT_SHARE = 0.6  # at first: decode steps of 20 ms then make 50 ms a token
NOTHING_CACHED: Mapping[ExecutionInstance, int] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class InstanceLoad:
    """The work that this gateway has put on an instance and not yet seen begin, and how fast that is worked off.

    ``pending_tokens``: uncached prompt tokens sent and not yet answered by a first byte. ``progress_at``: the
    last first byte, or the push that made them more than none. ``begun_tokens``: those that did begin, since ever.
    ``taught``: first bytes that showed its pace; none: ``busy_ms`` and ``busy_tokens`` are a guess.
    ``ms_per_token`` is learned, as ``busy_ms / busy_tokens * own_share + whole_part``; the latter two follow from
    answers in one piece, see ``control_plane.relative_pace``. ``read_in``: such answers until the next that is read for
    that. In ``paced_tokens`` a prompt counts as no fewer than a step's, see ``control_plane.slos.slowness``.
    ``window_tokens``: pending tokens that may wait inside the engine. ``lost_at``: when it last went out of service;
    ``stalled_at``: when this process last went on after it had not run for a while. An
    answer to what was sent before either teaches nothing: an instance with one answer after a minute would look too
    slow for any more work. ``late``: those in flight that were placed too
    late to be in time. ``spares_from``: when prompts will have taken no more than ``prompt_share`` of its time; see
    ``control_plane.prompt_share``.
    """

    pending_tokens: int = 0
    progress_at: float = 0.0
    ms_per_token: float = 0.03
    busy_ms: float = 600.0
    busy_tokens: float = 20000.0
    taught: int = 0
    own_share: float = 1.0
    whole_part: float = 0.0
    begun_tokens: int = 0
    read_in: int = 1
    paced_tokens: float = 20000.0
    window_tokens: float = 8192
    lost_at: float = -math.inf
    stalled_at: float = -math.inf
    late: int = 0
    spares_from: float = 0.0
    prompt_share: float = PROMPT_SHARE


class SchedulingRequest(msgspec.Struct, gc=False):
    """The facts of one request that scheduling needs; never its text.

    A program constructs the public ``library.requests.RequestMetadata``; the gateway and the policies use this.

    ``caller_request_id`` is the caller's own id where the engine gets another, because that one was in use.
    ``prompt_tokens`` is an estimate, ``arrived`` is on the monotonic clock, seconds. ``output_tokens``: how long an
    answer the caller asks for; 0 where the engine decides, or where it matters to nobody. ``prompt_blocks`` are
    chained hashes of the prompt's blocks, each of about ``block_tokens``; ``cached_tokens`` has how many of
    the prompt's tokens an instance likely holds already. ``slo_deadline_ms`` is a deadline the caller gave,
    from ``arrived`` to the first byte of the answer. ``slo`` is what the operator wants for it; None: the default of its
    priority.
    """

    request_id: str
    request_type: RequestType
    model: str
    route: str = ""
    priority: RequestPriority = RequestPriority.NORMAL
    tenant: str = ""
    prompt_tokens: int = 0
    slo_deadline_ms: float | None = None
    arrived: float = msgspec.field(default_factory=time.monotonic)
    streams: bool = False
    session: str = ""
    prompt_bytes: int = 0
    prompt_blocks: Sequence[int] = ()
    block_tokens: float = 64.0
    script: int = 0
    cached_tokens: Mapping[ExecutionInstance, int] = NOTHING_CACHED
    caller_request_id: str = ""
    output_tokens: int = 0
    slo: Slo | None = None


_TypeWord = Literal[
    "general", "prefilling", "decoding", "hybrid", "embedding", "llm_embedding", "llm", "mixed"
]
_UNHEALTHY = (EngineState.STARTING, EngineState.EJECTED, EngineState.STOPPED)


@dataclass(init=False, slots=True, eq=False)
class ExecutionInstance:
    """One engine behind the gateway, with the load this gateway has put on it.

    A new instance is available. ``is_healthy`` and ``is_available`` are read from ``state``, and set it. An
    instance that is not healthy is not available either. ``routes`` are the paths the engine serves
    (``/v1/chat/completions`` …), learned from the engine. ``max_concurrent_requests`` 0 or None means no limit.
    Counters are the gateway's own, counted at dispatch. ``gpu`` names the GPU it runs on, where several instances
    share one; ``kv_tokens`` is what its prefix cache can hold. ``scheme`` is ``http`` or ``https``, ``prefix`` the path
    before ``/v1``, and ``ca_file`` names certificates that are trusted for it beside the system's. Instances are equal
    only to themselves.

    Learned from the engine: ``uncompared``, models whose vectors were not compared with those of other instances;
    ``tagged``, whether a model's name without a tag means the tag ``latest``; ``context_tokens``, what prompt and
    answer of a model may have together, where the engine reports it.
    """

    instance_id: str
    host: str
    port: int
    model_name: str
    instance_type: ExecutionInstanceType
    engine: EngineKind
    models: tuple[str, ...]
    routes: frozenset[str]
    max_concurrent_requests: int
    weight: float
    state: EngineState
    active_requests: int
    simulated: bool
    metadata: dict[str, Any]
    gpu: str | None
    kv_tokens: int
    scheme: str
    prefix: str
    ca_file: str | None
    uncompared: frozenset[str] = field(init=False, repr=False)
    tagged: bool = field(init=False, repr=False)
    context_tokens: Mapping[str, int] = field(init=False, repr=False)
    load: InstanceLoad = field(init=False, repr=False)  # replace() must not share it between two instances

    def __init__(
        self,
        instance_id: str,
        host: str,
        port: int,
        model_name: str | None = "",
        instance_type: ExecutionInstanceType | _TypeWord = ExecutionInstanceType.GENERAL,
        engine: EngineKind | Literal["vllm", "tei", "openai"] = EngineKind.OPENAI,
        models: Sequence[str] = (),
        routes: Iterable[str] = (),
        max_concurrent_requests: int | None = 0,
        weight: float = 1.0,
        state: EngineState = EngineState.READY,
        active_requests: int = 0,
        simulated: bool = False,
        metadata: dict[str, Any] | None = None,
        gpu: str | None = None,
        kv_tokens: int = 1_000_000,
        *,
        scheme: str = "http",
        prefix: str = "",
        ca_file: str | None = None,
        is_healthy: bool | None = None,
        is_available: bool | None = None,
    ) -> None:
        """Raises ``ValueError`` for a word that is no choice, and for a negative limit."""
        limit = 0 if max_concurrent_requests is None else max_concurrent_requests
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(
                f"max_concurrent_requests must be a whole number of at least 0 (0: no limit), not {limit!r}"
            )
        self.instance_id = instance_id
        self.host = host
        self.port = port
        self.model_name = model_name or ""
        self.instance_type = member_of(ExecutionInstanceType, instance_type, "instance_type")
        self.engine = member_of(EngineKind, engine, "engine")
        self.models = tuple(models)
        self.routes = frozenset(routes)
        self.max_concurrent_requests = limit
        self.weight = weight
        self.state = member_of(EngineState, state, "state")
        self.active_requests = active_requests
        self.simulated = simulated
        self.metadata = {} if metadata is None else metadata
        self.gpu = gpu
        self.kv_tokens = kv_tokens
        self.scheme = engine_url.scheme_of(scheme)
        self.prefix = engine_url.prefix_of(prefix)
        self.ca_file = ca_file
        self.uncompared = frozenset()
        self.tagged = False
        self.context_tokens = {}
        self.load = InstanceLoad()
        if is_healthy is not None:
            self.is_healthy = is_healthy
        if is_available is not None and is_healthy is not False:
            self.is_available = is_available

    @property
    def base_url(self) -> str:
        """Its address up to ``/v1``, and without."""
        return engine_url.base_url(self.scheme, self.host, self.port, self.prefix)

    @property
    def is_available(self) -> bool:
        """Whether it takes new requests."""
        return self.state is EngineState.READY

    @is_available.setter
    def is_available(self, value: bool) -> None:
        if value:
            self.state = EngineState.READY
        elif self.state is EngineState.READY:
            self.state = EngineState.DRAINING

    @property
    def is_healthy(self) -> bool:
        """Whether its engine is well, even where it takes no new requests."""
        return self.state not in _UNHEALTHY

    @is_healthy.setter
    def is_healthy(self, value: bool) -> None:
        if not value:
            self.state = EngineState.EJECTED
        elif self.state in _UNHEALTHY:
            self.state = EngineState.READY

    @property
    def available_capacity(self) -> float:
        """Requests it can still take; infinite where no limit is set."""
        if not self.max_concurrent_requests:
            return float("inf")
        return max(0, self.max_concurrent_requests - self.active_requests)

    def can_handle_request_type(self, request_type: RequestType) -> bool:
        """Whether its kind of engine does such work, available or not."""
        request_type = RequestType(request_type)
        if request_type is RequestType.EMBEDDING:
            return self.instance_type.serves_embeddings
        if request_type.is_llm:
            return self.instance_type.serves_llm
        return True

    def can_accept_request(self) -> bool:
        """Whether it is available and has room for one more request."""
        return self.is_available and self.available_capacity > 0

    def can_accept_llm_request(self) -> bool:
        return self.instance_type.serves_llm and self.can_accept_request()

    def can_accept_embedding_request(self) -> bool:
        return self.instance_type.serves_embeddings and self.can_accept_request()


class Usage(NamedTuple):
    """The tokens of a request by the engine's count; ``cached_tokens`` is None where it does not report them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


class SchedulingDecision(msgspec.Struct, gc=False):
    """Which instance serves a request, and why. Matched to its request by ``request_id`` alone.

    ``paces`` are the milliseconds a token that the policy reckoned with, where it did. ``target`` may be the instance
    itself: then nothing has to look it up by its id.
    """

    request_id: str
    target_instance_id: str
    reason: str
    confidence: float = 1.0
    estimated_latency_ms: float = 0.0
    metadata: dict[str, Any] | None = None
    paces: Mapping[ExecutionInstance, float] | None = None
    target: ExecutionInstance | None = None


@dataclass(frozen=True, slots=True)
class PerformanceMetrics:
    """How the work has gone since the start. Rates are over the last ten seconds.

    ``failed_requests`` were answered with an error or cut short; ``avg_ttft_ms`` is the mean over the
    instances of the time to a first byte, each weighing its latest answers most; None before the first.
    """

    total_requests: int = 0
    completed_requests: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    retried_requests: int = 0
    active_requests: int = 0
    queued_requests: int = 0
    requests_per_s: float = 0.0
    avg_ttft_ms: float | None = None
