"""The schema of the engines that others start: entries of ``instances``, and sources that name more of them."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.config.ray_names import APPLICATION
from sage_inference.config.secrets import Secret
from sage_inference.config.setting import setting

INSTANCE_KINDS = ("auto", "llm", "embedding", "mixed", "prefilling", "decoding")
ENGINES = ("auto", "vllm", "tei", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings:
    url: str = setting(
        doc="Address of the engine: http://host:port[/v1], host:port or unix:/path of its socket.",
        format="backend",
        example="http://127.0.0.1:8001",
    )
    name: str | None = setting(
        None,
        doc="Name in status, logs and x-sage-instance; by default its address: host:port and the prefix, or unix:/path.",
        format="name",
    )
    kind: str = setting(
        "auto",
        doc="Kind of work; auto asks the engine. Prefilling and decoding are the two sides of split requests.",
        choices=INSTANCE_KINDS,
    )
    engine: str = setting("auto", doc="Dialect of the engine; auto asks it.", choices=ENGINES)
    model: str | None = setting(None, doc="Model to assume if the engine names none.")
    api_key: Secret | None = setting(None, doc="Key sent to the engine.", example="env:VLLM_API_KEY")
    ca_file: str | None = setting(
        None,
        doc="Certificates (PEM) trusted for its https address, beside the system's store.",
        example="~/engine-ca.pem",
    )
    max_concurrent_requests: int = setting(0, doc="Requests at the same time; 0 = no limit.", minimum=0)
    gpu: str | None = setting(None, doc="GPU of the engine, if instances share one.", example="cuda:0")
    max_batched_tokens: int = setting(
        0, doc="Prompt tokens that may wait in the engine; 0 = 8192, or twice a TEI's batch.", minimum=0
    )
    kv_cache_tokens: int = setting(
        0, doc="Tokens in its prefix cache; 0 = ask vLLM, otherwise assume 1000000.", minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """A place that names engines. Exactly one of ``ray``, ``file`` and ``dns`` is set."""

    ray: str | None = setting(
        None,
        doc="Dashboard of a Ray cluster: http://host:port. Replicas of a Serve application are the engines.",
        format="dashboard",
        example="http://head:8265",
        instead=("file", "dns"),
    )
    application: str = setting(
        APPLICATION,
        doc="With ray: the Serve application whose replicas know where engines are. NAME.* belong to NAME.",
    )
    file: str | None = setting(
        None,
        doc="File with a list of instances; read again when it changes.",
        example="/shared/engines.yaml",
    )
    dns: str | None = setting(
        None,
        doc="Name whose addresses are engines: host:port, or _name._tcp.domain for SRV records.",
        format="dns_name",
        example="_vllm._tcp.engines.lan",
    )
    interval_s: float = setting(2.0, doc="Time between two looks.", minimum=0.2, maximum=3600)
    token: Secret | None = setting(
        None, doc="With ray: token sent to the dashboard.", example="env:RAY_AUTH_TOKEN"
    )
    drain_s: float = setting(
        30.0,
        doc="How long an engine that left the list may finish what it has, before it is forgotten.",
        minimum=0.0,
        maximum=86400,
    )
    kind: str = setting("auto", doc="As in instances; holds for each engine found.", choices=INSTANCE_KINDS)
    engine: str = setting("auto", doc="As in instances; holds for each engine found.", choices=ENGINES)
    model: str | None = setting(None, doc="Model to assume if an engine names none.")
    api_key: Secret | None = setting(None, doc="Key sent to the engines.", example="env:VLLM_API_KEY")
    max_concurrent_requests: int = setting(
        0, doc="Requests at the same time on each engine; 0 = no limit.", minimum=0
    )
    max_batched_tokens: int = setting(
        0, doc="Prompt tokens that may wait in each engine; 0 = 8192, or twice a TEI's batch.", minimum=0
    )
    kv_cache_tokens: int = setting(
        0, doc="Tokens in the prefix cache of each; 0 = ask vLLM, otherwise assume 1000000.", minimum=0
    )
