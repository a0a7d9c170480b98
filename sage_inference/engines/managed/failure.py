"""One failure of an engine, and the facts that it is found from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sage_inference.config.engine_rules import name_of_engine
from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.port_holder import PortHolder

if TYPE_CHECKING:
    from sage_inference.engines.managed.gpus import Gpu
    from sage_inference.engines.managed.log_lines import LogLine
    from sage_inference.engines.managed.progress import StartPhase


class Retry(StrEnum):
    """Whether and when a start is tried again.

    ``COUNTED`` adds to the failures after which an engine stays down; the others do not.
    """

    NO = "no"
    COUNTED = "counted"
    AT_ONCE = "at_once"
    WITH_CHANGE = "with_change"
    WHEN_MEMORY = "when_memory"
    OTHER_PORT = "other_port"
    BACK_OFF = "back_off"


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """``change`` are settings of the engine for the next try, with ``WITH_CHANGE``."""

    message: str
    hint: str | None = None
    retry: Retry = Retry.COUNTED
    change: dict[str, Any] = field(default_factory=dict)


class Exit(Protocol):
    """The end of a process, as its keeper recorded it."""

    @property
    def status(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def oom_killed(self) -> bool: ...
    @property
    def keeper_killed(self) -> bool: ...


HolderOf = Callable[[int], PortHolder | None]


def nobody(port: int) -> PortHolder | None:
    """The holder of a port for an explanation that does not look at this machine."""
    return None


@dataclass(frozen=True, slots=True)
class Case:
    """One end: its log from the top, and all that is known besides. ``gpus`` are in the engine's own order."""

    lines: Sequence[LogLine]
    exit: Exit | None
    phase: StartPhase | None
    was_ready: bool
    engine: ManagedEngineSettings
    gpus: Sequence[Gpu] = ()
    port: int | None = None  # that it was given
    holder_of: HolderOf = nobody

    @property
    def name(self) -> str:
        return name_of_engine(self.engine)

    @property
    def is_vllm(self) -> bool:
        return any(line.process in ("APIServer", "EngineCore") for line in self.lines)

    @property
    def while_(self) -> str:
        return f"while {self.phase.words}" if self.phase and not self.was_ready else "while serving"
