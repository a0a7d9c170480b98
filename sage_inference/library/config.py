"""The options that a program gives, and the settings that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage_inference.choices import Choice
from sage_inference.config import tree
from sage_inference.config.backend import Backend, BackendInstanceConfig, choice_of
from sage_inference.config.build import Builder
from sage_inference.config.check import check
from sage_inference.config.errors import ConfigError
from sage_inference.config.settings import Settings
from sage_inference.types import ExecutionInstanceType

# The policy of a gateway without scheduling: each instance in turn, whatever its load.
UNSCHEDULED = "round_robin"
_KINDS = {
    ExecutionInstanceType.GENERAL: "llm",
    ExecutionInstanceType.HYBRID: "llm",
    ExecutionInstanceType.LLM_EMBEDDING: "mixed",
}


class SchedulingPolicyType(Choice, StrEnum):
    """The names of the scheduling policies. A plain string of the same value can be given instead."""

    HYBRID = "hybrid"
    FIFO = "fifo"
    PRIORITY = "priority"
    SLO_AWARE = "slo_aware"
    COST_OPTIMIZED = "cost_optimized"
    ADAPTIVE = "adaptive"
    LEAST_LOADED = "least_loaded"
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    POWER_OF_TWO = "power_of_two"
    PREFIX_AWARE = "prefix_aware"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class UnifiedServerConfig:
    """The configuration of one gateway.

    A backend is a ``BackendInstanceConfig``, a mapping of its fields, or a URL. Without ``enable_control_plane``,
    each instance gets a request in turn, whatever its load. ``request_timeout`` is the longest time in seconds from
    the sending of a request to the first byte of its answer. A ``host`` that is not loopback needs ``api_keys``.
    ``cors_origins`` need ``enable_cors``; without any, every origin is allowed. ``allowed_hosts`` are names
    that are accepted in ``Host`` and ``Origin`` besides the loopback ones.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    llm_backends: Sequence[Backend] = ()
    embedding_backends: Sequence[Backend] = ()
    scheduling_policy: SchedulingPolicyType | str = SchedulingPolicyType.HYBRID
    enable_control_plane: bool = True
    enable_cors: bool = False
    cors_origins: Sequence[str] = ()
    log_level: str = "info"
    request_timeout: float = 600.0
    api_keys: Sequence[str] = field(default=(), repr=False)
    allowed_hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an unknown ``scheduling_policy``."""
        policy = choice_of(SchedulingPolicyType, self.scheduling_policy, "scheduling_policy")
        object.__setattr__(self, "scheduling_policy", policy)

    def settings(self) -> Settings:
        """The settings of the gateway. Raises ``ConfigError`` if a value is invalid, with the place and a hint."""
        if self.cors_origins and not self.enable_cors:
            raise ConfigError(
                "cors_origins are given", key="enable_cors", hint="set enable_cors=True as well"
            )
        entries = [entry(backend, "llm") for backend in self.llm_backends]
        entries += [entry(backend, "embedding") for backend in self.embedding_backends]
        policy = str(self.scheduling_policy) if self.enable_control_plane else UNSCHEDULED
        document = {
            "server": {
                "host": self.host,
                "port": self.port,
                "allowed_hosts": list(self.allowed_hosts),
                "cors_origins": (list(self.cors_origins) or ["*"]) if self.enable_cors else [],
            },
            "instances": entries,
            "api_keys": [{"key": key} for key in self.api_keys],
            "scheduling": {"policy": policy},
            "timeouts": {"first_byte_s": self.request_timeout},
            "logging": {"level": self.log_level.lower()},
        }
        return settings_of(document)


def settings_of(document: Mapping[str, Any], *, listens: bool = True) -> Settings:
    """The settings in a document of the configuration file's form. All are checked. Raises ``ConfigError``."""
    settings = Builder("").section(Settings, tree.from_data(document, ""))
    check(settings, listens=listens)
    return settings


def entry(backend: Backend, kind: str) -> dict[str, Any]:
    """The backend as an entry of ``instances``. ``kind`` applies if the backend has none."""
    if isinstance(backend, str):
        return {"url": backend, "kind": kind}
    if isinstance(backend, Mapping):
        given = dict(backend)
        url = given.pop("base_url", None) or given.pop("url", None)
        name = given.pop("name", None)
        try:
            config = BackendInstanceConfig(**given)
        except TypeError:
            known = "base_url, name, " + ", ".join(BackendInstanceConfig.__dataclass_fields__)
            unknown = ", ".join(k for k in given if k not in BackendInstanceConfig.__dataclass_fields__)
            raise ConfigError(f"a backend has no {unknown}", hint=f"it takes {known}") from None
    else:
        config, url, name = backend, None, None
    found: dict[str, Any] = {"url": url or config.base_url, "kind": _kind(config.instance_type, kind)}
    optional = {
        "name": name,
        "model": config.model_name,
        "api_key": config.api_key,
        "ca_file": config.ca_file,
        "max_concurrent_requests": config.max_concurrent_requests,
    }
    return found | {key: value for key, value in optional.items() if value}


def _kind(given: ExecutionInstanceType | str, otherwise: str) -> str:
    if given == "auto":
        return otherwise
    kind = ExecutionInstanceType(given)
    return _KINDS.get(kind, kind.value)
