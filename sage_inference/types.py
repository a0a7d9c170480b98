"""Requests, instances, decisions and metrics as values, and the enumerations that they use."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Literal

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
for _kind in RequestType:  # every request reads it, and a set would hash the enum in Python each time
    _kind.is_llm = _kind in _LLM_TYPES


class RequestPriority(Choice, IntEnum):
    """The priority of a request. A lower value is more urgent, so that priorities sort by urgency."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4


class RequestStatus(Choice, StrEnum):
    """The state of a request for its caller."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExecutionInstanceType(Choice, StrEnum):
    """The kinds of work that an instance accepts. ``llm`` and ``mixed`` are read as GENERAL and LLM_EMBEDDING."""

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
    """The dialect of an instance's engine."""

    VLLM = "vllm"
    TEI = "tei"
    OPENAI = "openai"


class EngineState(Choice, StrEnum):
    """The state of an instance. Only a READY one accepts new requests."""

    STARTING = "starting"  # no probe has succeeded yet
    READY = "ready"
    ASLEEP = "asleep"  # healthy, but answers no request before it wakes
    EJECTED = "ejected"  # failed; tried again after a back-off
    DRAINING = "draining"  # finishes its requests, accepts no new ones
    STOPPED = "stopped"


class Slo(msgspec.Struct, frozen=True, gc=False):
    """Service level objectives in milliseconds: the time to the first token, and the time of each token after it.

    ``ttft_from`` and ``tpot_from`` name the settings that state them. ``ttft_ms`` is ``ttft_times`` the stated time,
    because a low priority lengthens a time that is not stated for it.
    """

    ttft_ms: float
    tpot_ms: float
    ttft_from: str = "default"
    tpot_from: str = "default"
    ttft_times: float = 1.0


PROMPT_SHARE = 0.6  # at first: with decode steps of 20 ms, a token then takes 50 ms
NOTHING_CACHED: Mapping[ExecutionInstance, int] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class InstanceLoad:
    """The prompts that this gateway has sent to an instance and that have not begun, and the learned pace of prompts.

    The pace in milliseconds per token is ``busy_ms / busy_tokens * own_share + whole_part``.

    Answers to requests that were sent before ``lost_at`` or ``stalled_at`` teach nothing. Otherwise one answer after a
    minute would make the instance look too slow for any more work.
    """

    pending_tokens: int = 0  # uncached prompt tokens that were sent and have no first byte yet
    progress_at: float = 0.0  # the last first byte, or the push that raised ``pending_tokens`` from 0
    ms_per_token: float = 0.03  # the pace
    busy_ms: float = 600.0
    busy_tokens: float = 20000.0
    taught: int = 0  # first bytes that showed the pace; at 0, ``busy_ms`` and ``busy_tokens`` are a guess
    # These two follow from answers in one piece, see ``control_plane.accounting.relative_pace``.
    own_share: float = 1.0
    whole_part: float = 0.0
    # The time to the first byte of a prompt that nothing precedes: milliseconds, and more for each of its tokens. Both are 0
    # until an answer has shown them, see ``control_plane.accounting.lone_prompts``.
    alone: tuple[float, float] = (0.0, 0.0)
    line: Any = None  # what ``alone`` follows from
    begun_tokens: int = 0  # prompt tokens that have begun since the start
    read_in: int = 1  # answers in one piece until the next one that is read to learn from
    # Like ``busy_tokens``, but a prompt counts as no fewer tokens than a step's, see ``control_plane.slo_table.slowness``.
    paced_tokens: float = 20000.0
    window_tokens: float = 8192  # pending tokens that may wait inside the engine
    lost_at: float = -math.inf  # the last time at which the instance went out of service
    stalled_at: float = -math.inf  # the last time at which this process continued after it had stood still
    overdue: int = 0  # requests in flight that were placed too late to be in time
    # From ``spares_from`` on, prompts have taken no more than ``prompt_share`` of the instance's time, see
    # ``control_plane.accounting.prompt_share``.
    spares_from: float = 0.0
    prompt_share: float = PROMPT_SHARE
    # Busy time: the seconds that a request would have had that was in flight all the time, and when that was computed.
    shared_s: float = 0.0
    shared_at: float = 0.0


class SchedulingRequest(msgspec.Struct, gc=False):
    """The facts of one request that scheduling needs, never its text.

    The gateway and the policies use this class. A program constructs the public ``library.requests.RequestMetadata``.
    """

    request_id: str
    request_type: RequestType
    model: str
    route: str = ""
    priority: RequestPriority = RequestPriority.NORMAL
    tenant: str = ""
    prompt_tokens: int = 0  # an estimate
    slo_deadline_ms: float | None = None  # the caller's deadline, from ``arrived`` to the first byte
    arrived: float = msgspec.field(default_factory=time.monotonic)  # seconds of the monotonic clock
    streams: bool = False
    session: str = ""
    prompt_bytes: int = 0
    prompt_blocks: Sequence[int] = ()  # chained hashes of the prompt's blocks
    block_tokens: float = 64.0  # the approximate tokens of a block
    script: int = 0
    cached_tokens: Mapping[ExecutionInstance, int] = NOTHING_CACHED  # prompt tokens that it likely has
    caller_request_id: str = ""  # the caller's id if the engine gets another one, because this one was in use
    output_tokens: int = 0  # the wanted length; 0 if the engine decides, or if nothing depends on it
    slo: Slo | None = None  # stated by the operator; None means the default of its priority
    choices: int = 1  # answers that share the tokens of the request; 0 if their number is not known
    connection: int = 0  # number of its caller's connection; 0 if there is none
    user: str = ""  # that the body names
    key: str = ""  # the tenant of a request that is charged to none; "(merged)" for a call of several callers


_TypeWord = Literal[
    "general", "prefilling", "decoding", "hybrid", "embedding", "llm_embedding", "llm", "mixed"
]
_UNHEALTHY = (EngineState.STARTING, EngineState.EJECTED, EngineState.STOPPED)


@dataclass(init=False, slots=True, eq=False)
class ExecutionInstance:
    """One engine behind the gateway, with the load that this gateway has put on it.

    A new instance is available. ``is_healthy`` and ``is_available`` are read from ``state``, and set it. An
    instance that is not healthy is not available either. Instances are equal only to themselves.

    ``scheme`` is ``http`` or ``https``, and ``prefix`` is the path before ``/v1``. ``ca_file`` names a file of
    certificates that are trusted for the engine, beside the system's. ``max_concurrent_requests`` 0 or None means no
    limit. ``gpu`` names the engine's GPU if several instances share one. ``kv_tokens`` is the size of its prefix cache
    in tokens. Counters are the gateway's own, and count at dispatch.

    Four fields are learned from the engine. ``routes`` are its paths (``/v1/chat/completions`` …). ``uncompared`` are
    models whose vectors were not compared with those of other instances. ``tagged``: a model's name without a tag
    means the tag ``latest``. ``context_tokens`` is the most tokens of prompt and answer together, by model, if the
    engine reports it.
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
    uds: str | None
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
        uds: str | None = None,
        is_healthy: bool | None = None,
        is_available: bool | None = None,
    ) -> None:
        """Raises ``ValueError`` for a word that is not a choice, and for an invalid limit, scheme or prefix."""
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
        self.uds = engine_url.socket_path(uds) if uds else None
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
        """The engine's address before ``/v1``."""
        return engine_url.base_url(self.scheme, self.host, self.port, self.prefix, self.uds)

    @property
    def requests_url(self) -> str:
        """The same for an HTTP client, which has to be given a Unix socket apart from the address."""
        return engine_url.AT_SOCKET if self.uds else self.base_url

    @property
    def is_available(self) -> bool:
        """Whether the instance accepts new requests."""
        return self.state is EngineState.READY

    @is_available.setter
    def is_available(self, value: bool) -> None:
        if value:
            self.state = EngineState.READY
        elif self.state is EngineState.READY:
            self.state = EngineState.DRAINING

    @property
    def is_healthy(self) -> bool:
        """Whether the engine is healthy, even if it accepts no new requests."""
        return self.state not in _UNHEALTHY

    @is_healthy.setter
    def is_healthy(self, value: bool) -> None:
        if not value:
            self.state = EngineState.EJECTED
        elif self.state in _UNHEALTHY:
            self.state = EngineState.READY

    @property
    def available_capacity(self) -> float:
        """The number of further requests that the instance can accept. Infinite without a limit."""
        if not self.max_concurrent_requests:
            return float("inf")
        return max(0, self.max_concurrent_requests - self.active_requests)

    def can_handle_request_type(self, request_type: RequestType) -> bool:
        """Whether this kind of engine does such work. Its availability does not count."""
        request_type = RequestType(request_type)
        if request_type is RequestType.EMBEDDING:
            return self.instance_type.serves_embeddings
        if request_type.is_llm:
            return self.instance_type.serves_llm
        return True

    def can_accept_request(self) -> bool:
        """Whether the instance is available and its limit allows one more request."""
        return self.is_available and self.available_capacity > 0

    def can_accept_llm_request(self) -> bool:
        return self.instance_type.serves_llm and self.can_accept_request()

    def can_accept_embedding_request(self) -> bool:
        return self.instance_type.serves_embeddings and self.can_accept_request()


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of a request by the engine's count. ``cached_tokens`` is None if the engine does not report them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


class SchedulingDecision(msgspec.Struct, gc=False):
    """The instance for a request, and the reason. Only ``request_id`` relates a decision to its request.

    ``paces`` are the milliseconds per token that the policy used, if it used any. ``target`` may be the instance
    itself, which saves a look-up by its id.
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
    """Counts of requests since the start. Rates are over the last ten seconds.

    ``failed_requests`` were answered with an error or cut short. ``avg_ttft_ms`` is the mean of the instances' times
    to a first byte, in which later answers weigh more. It is None before the first one.
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
