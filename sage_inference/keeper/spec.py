"""The order to a keeper and its answers, as values for its clients."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class KeeperSpec:
    """The engine to start. A keeper gets it through a socket, because all users can read command lines.

    ``directory`` is the engine's own, and only its owner may read it. ``cwd`` None means this directory.
    An empty ``stop_command`` means SIGTERM to the engine's first process. ``secrets`` are values to mask in the log and
    in files. ``about`` is copied into ``engine.json`` and must hold no secret.
    """

    name: str
    directory: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)
    spec_hash: str = ""
    cwd: str | None = None
    stop_command: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list, repr=False)
    grace_s: float = 15
    orphan_timeout_s: float = 600
    log_bytes: int = 20 << 20
    log_backups: int = 3
    about: dict[str, Any] = field(default_factory=dict)

    def as_document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The end of an engine's first process, as ``exit.json`` holds it.

    Either ``status`` or ``signal`` is None. Both are None if the keeper was killed and could not see the status.
    ``ordered`` means that a stop was ordered before the end. Any other end is a failure, status 0 included.
    ``keeper_killed`` means that the engine was ended because its keeper was killed.
    """

    status: int | None
    signal: int | None
    at: float
    ordered: bool
    oom_killed: bool
    keeper_killed: bool = False

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ExitRecord:
        return cls(
            status=document.get("status"),
            signal=document.get("signal"),
            at=float(document.get("at", 0.0)),
            ordered=bool(document.get("ordered")),
            oom_killed=bool(document.get("oom_killed")),
            keeper_killed=bool(document.get("keeper_killed")),
        )


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """A keeper's answer. ``pids`` are the engine's processes; ``start_ticks`` and ``boot_id`` belong to the keeper.

    With ``exit`` set and ``pids`` left, the engine's first process has ended and its children have not yet.
    """

    keeper_pid: int
    engine_pid: int | None
    boot_id: str
    start_ticks: int
    spec_hash: str
    started_at: float
    pids: list[int]
    exit: ExitRecord | None
    stopping: bool
    about: dict[str, Any]

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> KeeperStatus:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for another document."""
        ended = document["exit"]
        return cls(
            keeper_pid=int(document["keeper_pid"]),
            engine_pid=document["engine_pid"],
            boot_id=str(document["boot_id"]),
            start_ticks=int(document["start_ticks"]),
            spec_hash=str(document["spec_hash"]),
            started_at=float(document["started_at"]),
            pids=[int(pid) for pid in document["pids"]],
            exit=None if ended is None else ExitRecord.from_document(ended),
            stopping=bool(document["stopping"]),
            about=dict(document["about"]),
        )
