"""The state of a managed engine as a value, and the rules that its settings give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

from sage_inference.engines.managed.failure import EngineFailure, Retry


class ManagedState(StrEnum):
    OFF = "off"
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"
    STUCK = "stuck"
    LOST = "lost"


_S = ManagedState
MOVES: dict[ManagedState, frozenset[ManagedState]] = {
    _S.OFF: frozenset({_S.WAITING, _S.STARTING, _S.LOST}),
    _S.WAITING: frozenset({_S.OFF, _S.STARTING}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.FAILED, _S.WAITING, _S.OFF, _S.LOST}),
    _S.READY: frozenset({_S.DRAINING, _S.STOPPING, _S.FAILED, _S.LOST}),
    _S.DRAINING: frozenset({_S.READY, _S.STOPPING, _S.OFF, _S.WAITING, _S.LOST}),
    _S.STOPPING: frozenset({_S.OFF, _S.WAITING, _S.FAILED, _S.STUCK, _S.LOST}),
    _S.FAILED: frozenset({_S.WAITING, _S.OFF}),
    _S.STUCK: frozenset({_S.OFF, _S.WAITING}),
    _S.LOST: frozenset({_S.OFF, _S.WAITING}),
}


class Effect(Enum):
    """An effect that a move asks for."""

    TAKE_TURN = auto()  # wait until no other engine starts on the GPUs; answered by ``TurnCame``
    GIVE_TURN = auto()
    LAUNCH = auto()  # answered by ``Launched`` or ``NotLaunched``
    SERVE = auto()  # the instance takes requests
    DRAIN = auto()  # the instance takes no more requests; answered by ``Drained``
    UNSERVE = auto()  # remove the instance
    STOP = auto()  # ask the keeper to end the engine; answered by ``Exited``
    REFUSE = auto()  # end the requests that wait for the engine


@dataclass(frozen=True, slots=True)
class Rules:
    """The times and rights that the settings give an engine."""

    restarts: bool = True
    stop_s: float = 30.0  # from the order to stop to STUCK: the keeper's grace, and the time for its SIGKILL
    drain_s: float = 30.0
    first_s: float = 2.0  # the back-off after one failure; it doubles
    longest_s: float = 60.0
    most: int = 5  # counted failures within ``within_s``; then only ``load`` starts the engine again
    within_s: float = 600.0
    most_at_once: int = 3  # retries in a row that are not counted


@dataclass(frozen=True, slots=True)
class Machine:
    state: ManagedState = ManagedState.OFF
    since: float = 0.0
    due_at: float | None = None  # when ``Due`` is wanted
    run: int = 0  # grows with each process, so that an event of an earlier one is recognized
    launching: bool = False
    owned: bool = False
    then: ManagedState = ManagedState.OFF  # after DRAINING and STOPPING
    failure: EngineFailure | None = None  # the last one; None again once the engine answers or is loaded
    failures: tuple[float, ...] = ()  # times of counted failures
    at_once: int = 0  # retries in a row that are not counted
    change: Mapping[str, Any] = field(default_factory=dict)  # of settings, found by failures
    restarts: int = 0
    adopted: bool = False
    kept: bool = False  # stays off until somebody loads it by name

    @property
    def holds_requests(self) -> bool:
        """Whether a request may wait for the engine."""
        if self.state in (ManagedState.DRAINING, ManagedState.STOPPING):
            return self.then is ManagedState.WAITING or (self.then is ManagedState.FAILED and self.will_retry)
        if self.state is ManagedState.FAILED:
            return self.due_at is not None
        return self.state in (ManagedState.WAITING, ManagedState.STARTING, ManagedState.READY)

    @property
    def will_retry(self) -> bool:
        """Whether a start may follow the failure; also while its cause is not known yet."""
        return self.failure is None or self.failure.retry is not Retry.NO

    @property
    def has_turn(self) -> bool:
        """Whether no other engine may start on its GPUs."""
        return self.state in (ManagedState.STARTING, ManagedState.STOPPING)
