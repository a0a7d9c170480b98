"""An engine's description in a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from sage_inference import engine_url
from sage_inference.choices import member_of
from sage_inference.config.errors import ConfigError
from sage_inference.types import ExecutionInstanceType

_Member = TypeVar("_Member", bound=Enum)


class WrongChoiceError(ConfigError, ValueError):
    """A word is not one of the choices. The error is both a configuration's mistake and a wrong argument."""


@dataclass(frozen=True, slots=True)
class BackendInstanceConfig:
    """One engine. ``instance_type`` is an ``ExecutionInstanceType``, its name, or ``auto`` to ask the engine.

    ``model_name`` is used if the engine names no model. ``max_concurrent_requests`` 0 or None means no limit.
    ``scheme`` is ``http`` or ``https``, ``prefix`` the path before ``/v1``. ``ca_file`` names a file of certificates
    (PEM) that are trusted for this engine, beside the system's.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    model_name: str = ""
    instance_type: ExecutionInstanceType | str = "auto"
    max_concurrent_requests: int | None = 0
    api_key: str | None = field(default=None, repr=False)
    scheme: str = "http"
    prefix: str = ""
    ca_file: str | None = None

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an invalid ``instance_type``, ``scheme`` or ``prefix``."""
        for key, checked in (("scheme", engine_url.scheme_of), ("prefix", engine_url.prefix_of)):
            try:
                object.__setattr__(self, key, checked(getattr(self, key)))
            except ValueError as error:
                raise WrongChoiceError(str(error), key=key) from None
        if self.instance_type != "auto":
            kind = choice_of(ExecutionInstanceType, self.instance_type, "instance_type")
            object.__setattr__(self, "instance_type", kind)
        if self.max_concurrent_requests is None:
            object.__setattr__(self, "max_concurrent_requests", 0)

    @property
    def base_url(self) -> str:
        return engine_url.base_url(self.scheme, self.host, self.port, self.prefix)


Backend = BackendInstanceConfig | Mapping[str, Any] | str  # a string is its URL


def choice_of(cls: type[_Member], value: object, name: str) -> _Member:
    """The member of ``cls`` that ``value`` is or names. Raises ``WrongChoiceError``."""
    try:
        return member_of(cls, value, name)
    except ValueError as error:
        raise WrongChoiceError(str(error), key=name) from None
