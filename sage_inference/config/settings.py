"""The schema. Defaults, help, validation, the commented file and the JSON schema are derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage_inference.config.engine_settings import ManagedEngineSettings as ManagedEngineSettings
from sage_inference.config.engine_settings import ManagedSettings as ManagedSettings
from sage_inference.config.instance_settings import ENGINES as ENGINES
from sage_inference.config.instance_settings import INSTANCE_KINDS as INSTANCE_KINDS
from sage_inference.config.instance_settings import InstanceSettings as InstanceSettings
from sage_inference.config.instance_settings import SourceSettings as SourceSettings
from sage_inference.config.secrets import Secret
from sage_inference.config.setting import setting

POLICIES = (
    "hybrid",
    "least_loaded",
    "round_robin",
    "random",
    "power_of_two",
    "prefix_aware",
    "session",
    "fifo",
    "priority",
    "slo_aware",
    "cost_optimized",
    "adaptive",
)
PRIORITIES = ("critical", "high", "normal", "low", "background")
EMBEDDING_PRIORITIES = ("high", "normal", "low", "adaptive")
TRUNCATIONS = ("allow", "refuse")
NAMELESS = "default"  # the name of keys without one
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    host: str = setting(
        "127.0.0.1",
        doc="Address to listen on; any other than loopback needs api_keys.",
        format="host",
        restart=True,
    )
    port: int = setting(8000, doc="Port to listen on.", minimum=1, maximum=65535, restart=True)
    insecure: bool = setting(False, doc="Allow a non-loopback address without api_keys.")
    allowed_hosts: tuple[str, ...] = setting(
        (),
        doc="Names accepted in Host and Origin besides the loopback ones.",
        format="host",
        example="[workstation.lan]",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        doc="Origins that browsers may call from; none by default.",
        format="origin",
        example='["https://chat.example"]',
    )
    tls_cert: str | None = setting(
        None,
        doc="Certificate (PEM) with those of its authorities behind it; if set, the gateway speaks https.",
        example="~/gateway.pem",
    )
    tls_key: str | None = setting(
        None,
        doc="Its private key (PEM) without a password; not set = in the file of tls_cert.",
        example="~/gateway.key",
    )
    watch_config: bool = setting(
        False, doc="Apply changes of the configuration file by themselves, as a reload does."
    )


def _most(doc: str, example: str) -> Any:
    return setting(None, doc=doc, minimum=1, example=example)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimitSettings:
    requests_per_minute: int | None = _most("Requests in any minute.", "600")
    tokens_per_minute: int | None = _most("Tokens of prompts and answers in any minute.", "200000")
    tokens_per_day: int | None = _most("Tokens of prompts and answers in a day, by UTC.", "5000000")
    concurrent_requests: int | None = _most("Requests at the same time.", "16")
    models: tuple[str, ...] = setting(
        (),
        doc="Models, aliases and patterns such as qwen* that may be used; none = all.",
        example="[qwen2.5-7b, bge-*]",
    )

    @property
    def any_set(self) -> bool:
        return self != KeyLimitSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeySettings:
    key: Secret | None = setting(
        None,
        doc="The key; prefer env:NAME or file:PATH to a literal.",
        example="env:SAGE_KEY",
        instead=("key_hash",),
    )
    key_hash: str | None = setting(
        None,
        doc="Instead of key: its SHA-256, as sage inference keys add stores it.",
        format="key_hash",
        example='"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
    )
    name: str = setting(NAMELESS, doc="Name of the key in logs and metrics.")
    priority: str | None = setting(
        None,
        doc="Priority of its requests, and the highest that x-sage-priority may ask for; not set = normal, and callers may ask for any.",
        choices=PRIORITIES,
    )
    weight: float = setting(1.0, doc="Share of a busy engine, in proportion to other keys.", minimum=0.001)
    limits: KeyLimitSettings = setting(
        doc="What the key may use: see sage docs limits.",
        factory=KeyLimitSettings,
        example="{requests_per_minute: 600, tokens_per_minute: 200000, tokens_per_day: 5000000, "
        "concurrent_requests: 16, models: [qwen*]}",
    )


_LONGEST_MS = 86_400_000  # a day
_NEXT = "the next value in the order of sage docs scheduling"


def _ttft(doc: str) -> Any:
    return setting(None, doc=doc, minimum=1, maximum=_LONGEST_MS)


def _tpot(doc: str) -> Any:
    return setting(None, doc=doc, minimum=0.1, maximum=_LONGEST_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SloTimes:
    ttft_ms: float | None = _ttft(f"Milliseconds to the first token; not set = {_NEXT}.")
    tpot_ms: float | None = _tpot(f"Milliseconds of each token after it; not set = {_NEXT}.")


def _priority(name: str, example: str) -> Any:
    return setting(doc=f"Times for requests of {name} priority.", factory=SloTimes, example=example)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSloSettings(SloTimes):
    critical: SloTimes = _priority("critical", "{ttft_ms: 500}")
    high: SloTimes = _priority("high", "{ttft_ms: 700}")
    normal: SloTimes = _priority("normal", "{ttft_ms: 1000, tpot_ms: 50}")
    low: SloTimes = _priority("low", "{ttft_ms: 10000}")
    background: SloTimes = _priority("background", "{ttft_ms: 60000, tpot_ms: 200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SloSettings(ModelSloSettings):
    ttft_ms: float | None = _ttft(
        "Milliseconds to the first token, 30 times that for low and background; not set = 1000, more on slow engines."
    )
    tpot_ms: float | None = _tpot("Milliseconds of each token after it; not set = 50, more on slow engines.")
    models: dict[str, ModelSloSettings] = setting(
        doc="Times of single models, and of priorities within them: see sage docs scheduling.",
        factory=dict,
        example="{llama-70b: {ttft_ms: 5000, tpot_ms: 200, background: {ttft_ms: 120000}}}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    policy: str = setting("hybrid", doc="How an instance is chosen.", choices=POLICIES)
    policies: dict[str, str] = setting(
        doc="Policies of single models.",
        factory=dict,
        choices=POLICIES,
        example="{bge-m3: least_loaded}",
    )
    slo: SloSettings = setting(
        doc="Targets of requests. A time that is not set follows the engines' pace: 1000 and 50 ms on usual ones.",
        factory=SloSettings,
    )
    late_binding: bool = setting(
        True, doc="Keep prompts that no engine could start yet in the gateway, where their order can change."
    )
    hybrid_instance_ratio: float = setting(
        0.7,
        doc="Share of a shared GPU's time that LLM work gets while embeddings wait.",
        minimum=0.0,
        maximum=0.99,
    )
    llm_fallback_policy: str = setting(
        "adaptive",
        doc="Under hybrid: the order of waiting requests. Any other policy than fifo, priority, slo_aware or adaptive "
        "places LLM work instead.",
        choices=POLICIES,
    )
    prefer_specialized_instances: bool = setting(
        True, doc="Prefer instances for one kind of work to mixed ones, while they meet deadlines."
    )
    embedding_priority: str = setting(
        "normal",
        doc="Priority of embeddings beside streams on one GPU; adaptive = as much as the streams allow.",
        choices=EMBEDDING_PRIORITIES,
    )
    retries: int = setting(
        2, doc="Further instances to try after a failure, if that is safe.", minimum=0, maximum=10
    )
    enable_embedding_batching: bool = setting(True, doc="Merge texts of different callers into one call.")
    embedding_batch_size: int = setting(32, doc="Most texts in an embedding call.", minimum=1)
    min_embedding_batch_size: int = setting(
        1, doc="Texts that an embedding call waits for; 1 = never wait while an engine has room.", minimum=1
    )
    max_embedding_wait_ms: float = setting(
        50.0, doc="Longest wait for min_embedding_batch_size.", minimum=0.0
    )
    embedding_truncation: str = setting(
        "allow",
        doc="Texts that an engine would cut silently: allow and mark them, or refuse them.",
        choices=TRUNCATIONS,
    )
    embedding_cache_bytes: int = setting(0, doc="Memory for vectors of texts seen before.", minimum=0)
    record_file: str | None = setting(
        None,
        doc="File that each decision is written to: sizes, times, hashes; no texts. Read by replay.",
        example="~/sage-decisions.jsonl",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    connect_s: float = setting(5.0, doc="Time to connect to an engine.", minimum=0.001)
    first_byte_s: float = setting(
        600.0, doc="Time from sending a request to the first byte of its answer.", minimum=0.001
    )
    stream_idle_s: float = setting(120.0, doc="Longest silence within an answer.", minimum=0.001)
    header_s: float = setting(10.0, doc="Time for a caller's headers.", minimum=0.001)
    body_s: float = setting(60.0, doc="Longest gap between two pieces of a caller's body.", minimum=0.001)
    keep_alive_s: float = setting(75.0, doc="Time that a caller's connection may be idle.", minimum=0.001)
    drain_s: float = setting(30.0, doc="Time for running requests when the gateway stops.", minimum=0.0)
    queue_s: float = setting(120.0, doc="Longest wait for a free slot.", minimum=0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    header_bytes: int = setting(65536, doc="Most bytes of a request's headers.", minimum=1024)
    headers: int = setting(100, doc="Most headers of a request.", minimum=10)
    body_bytes: int = setting(67108864, doc="Most bytes of a request's body, decompressed.", minimum=1)
    bodies_bytes: int = setting(
        536870912, doc="Most bytes of all bodies above 64 KB that arrive, wait or await an answer.", minimum=1
    )
    connections: int = setting(
        20000,
        doc="Most connections of callers at once; fewer if the system grants few open files.",
        minimum=1,
    )
    queue_requests: int = setting(4096, doc="Most requests that wait for a slot.", minimum=0)
    queue_bytes: int = setting(268435456, doc="Most bytes of all requests that wait for a slot.", minimum=0)
    max_n: int | None = setting(None, doc="Most answers that one request may ask for; none = any.", minimum=1)
    max_completion_tokens: int | None = setting(
        None, doc="Most tokens that one request may ask for; none = any.", minimum=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    interval_s: float = setting(5.0, doc="Time between two probes of an instance.", minimum=0.05)
    timeout_s: float = setting(2.0, doc="Time for one probe.", minimum=0.05)
    failures: int = setting(5, doc="Consecutive 5xx answers that eject an instance.", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    level: str = setting("info", doc="Least severe level that is logged.", choices=LOG_LEVELS)
    max_bytes: int = setting(10485760, doc="Size at which the log rotates.", minimum=4096)
    backups: int = setting(5, doc="Rotated logs kept.", minimum=0, maximum=100)
    access: bool = setting(False, doc="Log one line for each request.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSettings:
    days: int = setting(
        90,
        doc="Days for which usage by key, user and model is kept in the state directory; 0 = none is.",
        minimum=0,
        maximum=3650,
    )
    users: bool = setting(True, doc="Keep the usage of each user that requests name in their field user.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    enabled: bool = setting(
        False,
        doc="Send traces of requests to an OpenTelemetry collector; needs the extra otel.",
        restart=True,
    )
    endpoint: str | None = setting(
        None,
        doc="Its address for OTLP over HTTP; not set = OTEL_EXPORTER_OTLP_ENDPOINT, otherwise http://localhost:4318.",
        format="collector",
        example="http://localhost:4318",
        restart=True,
    )
    headers: dict[str, Secret] = setting(
        doc="Headers that it gets, as its key; a value may be env:NAME or file:PATH.",
        factory=dict,
        example="{authorization: env:COLLECTOR_KEY}",
        restart=True,
    )
    sample: float | None = setting(
        None,
        doc="Share of the requests that are traced, where their caller did not decide; not set = OTEL_TRACES_SAMPLER, "
        "otherwise 1.",
        minimum=0.0,
        maximum=1.0,
    )
    service_name: str | None = setting(
        None,
        doc="Name of the gateway in traces; not set = OTEL_SERVICE_NAME, otherwise sage-inference.",
        format="name",
        restart=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration. It is immutable; a reload makes a new one."""

    llm_model: str | None = setting(None, doc="Model for chat and completions that name none.")
    embedding_model: str | None = setting(None, doc="Model for embeddings that name none.")
    server: ServerSettings = setting(doc="The gateway's own address.", factory=ServerSettings)
    instances: tuple[InstanceSettings, ...] = setting((), doc="The engines that others start.")
    sources: tuple[SourceSettings, ...] = setting(
        (), doc="Where other machines' engines are looked up, besides instances: see sage docs cluster."
    )
    engines: tuple[ManagedEngineSettings, ...] = setting(
        (), doc="The engines that the gateway starts and watches: see sage docs engines."
    )
    managed: ManagedSettings = setting(
        doc="What the engines that the gateway starts have in common.", factory=ManagedSettings
    )
    discover: bool = setting(
        True, doc="Without instances and sources, serve the engines that are found running on this machine."
    )
    aliases: dict[str, str] = setting(
        doc="Other names for served models.", factory=dict, example="{gpt-4o: qwen2.5-7b}"
    )
    api_keys: tuple[ApiKeySettings, ...] = setting((), doc="Keys that callers must show; none = open.")
    admin_key: Secret | None = setting(
        None, doc="Key for /admin, beside the token of each run; a key of api_keys does not open it."
    )
    scheduling: SchedulingSettings = setting(doc="Choice of an instance.", factory=SchedulingSettings)
    timeouts: TimeoutSettings = setting(doc="Timeouts, in seconds.", factory=TimeoutSettings)
    limits: LimitSettings = setting(doc="Limits.", factory=LimitSettings)
    health: HealthSettings = setting(doc="Probing of instances.", factory=HealthSettings)
    logging: LoggingSettings = setting(doc="The log.", factory=LoggingSettings)
    usage: UsageSettings = setting(doc="The record of usage.", factory=UsageSettings)
    tracing: TracingSettings = setting(
        doc="Traces of requests: see sage docs operations.", factory=TracingSettings
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of ``start``. They apply to one run and override environment and file."""

    llm_model: str | None = None
    embedding_model: str | None = None
    llm_backends: tuple[str, ...] = ()
    embedding_backends: tuple[str, ...] = ()
    cluster: str | None = None
    scheduling_policy: str | None = None
    host: str | None = None
    port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    log_level: str | None = None
    insecure: bool = False
    simulate: bool = False
    no_discover: bool = False
    no_engines: bool = False
