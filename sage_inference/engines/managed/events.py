"""The events of a managed engine. ``run`` is the number of the process that an event is about."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.engines.managed.failure import EngineFailure


@dataclass(frozen=True, slots=True)
class LoadWanted:
    """Somebody wants the engine. ``asked``: by name, and not only by a request for its model."""

    asked: bool = True


@dataclass(frozen=True, slots=True)
class UnloadWanted:
    pass


@dataclass(frozen=True, slots=True)
class RestartWanted:
    pass


@dataclass(frozen=True, slots=True)
class TurnCame:
    pass


@dataclass(frozen=True, slots=True)
class Due:
    """The time ``due_at`` has come."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A keeper of an earlier gateway holds a living engine."""


@dataclass(frozen=True, slots=True)
class KeeperSilent:
    """A keeper's lock is held, but the keeper does not answer as it should."""

    failure: EngineFailure


@dataclass(frozen=True, slots=True)
class Freed:
    """The processes of an engine that was stuck or lost are gone."""


@dataclass(frozen=True, slots=True)
class Launched:
    run: int


@dataclass(frozen=True, slots=True)
class NotLaunched:
    run: int
    failure: EngineFailure


@dataclass(frozen=True, slots=True)
class Answered:
    """A token or a vector was answered."""

    run: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """The start shows no sign of life, or takes longer than it may."""

    run: int
    failure: EngineFailure


@dataclass(frozen=True, slots=True)
class Hung:
    """An engine that was ready shows no sign of life."""

    run: int
    failure: EngineFailure


@dataclass(frozen=True, slots=True)
class Drained:
    run: int


@dataclass(frozen=True, slots=True)
class FirstExited:
    """The engine's first process ended by itself. Its keeper ends the others, and ``Exited`` follows."""

    run: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The whole tree of the engine is gone."""

    run: int
    failure: EngineFailure


@dataclass(frozen=True, slots=True)
class KeeperLost:
    run: int
    failure: EngineFailure


EngineEvent = (
    LoadWanted
    | UnloadWanted
    | RestartWanted
    | TurnCame
    | Due
    | Adopted
    | KeeperSilent
    | Freed
    | Launched
    | NotLaunched
    | Answered
    | Stalled
    | Hung
    | Drained
    | FirstExited
    | Exited
    | KeeperLost
)
