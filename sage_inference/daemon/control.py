"""Inspect, stop and reload a gateway from another process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, lock, pidfile
from sage_inference.daemon.errors import NotRunning, ReloadFailed, StopFailed, Unresponsive
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.process import Process

State = Literal["running", "stopped", "dead", "starting", "stopping", "unresponsive", "unknown"]
# LSB: 0 running, 1 dead with files left, 3 not running, 4 unknown.
_EXIT_CODES: dict[State, int] = {"running": 0, "dead": 1, "stopped": 3}

_FORCE = "sage inference stop --force ends it"
_MARGIN_S = 5.0  # after the drain time, before ``StopFailed``
_LOOK_S = 0.02
_PROGRESS_S = 0.1
_BUSY_S = 0.25
_HANDOVER_S = 1.0

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class DaemonState:
    """Derived each time from the lock, the process and its response. ``live`` is the status document."""

    state: State
    process: Process | None = None
    info: PidInfo | None = None
    live: dict[str, Any] | None = None
    reason: str | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def requests(self) -> int:
        """The requests that it has not answered, or 0 if the gateway does not report them."""
        return sum(self.live["requests"][key] for key in ("in_flight", "queued")) if self.live else 0

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES.get(self.state, 4)


Found = Callable[[DaemonState], None]


@dataclass(frozen=True, slots=True)
class StopOutcome:
    """``cleaned``: the gateway had died before, and its files were removed."""

    result: Literal["stopped", "killed", "not_running", "cleaned"]
    pid: int | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """Names of instances that were added, removed and changed, and keys of settings.

    ``needs_restart``: keys that the running gateway, at ``address``, applies only after a restart.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    address: str | None = None


def inspect(paths: Paths, *, timeout_s: float = 2.0) -> DaemonState:
    """The gateway's state. Takes up to ``timeout_s`` if the gateway hangs."""
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        try:
            return _inspect(paths, timeout_s)
        except _AnsweredByAnotherError as answered:
            # If the other gateway is a successor, the files will name it in a moment.
            if time.monotonic() > deadline:
                return answered.state
            time.sleep(_LOOK_S)


class _AnsweredByAnotherError(Exception):
    def __init__(self, state: DaemonState) -> None:
        self.state = state


def _inspect(paths: Paths, timeout_s: float) -> DaemonState:
    foreign = _foreign_file(paths)
    if foreign is not None:
        reason = f"{foreign} is another user's: ask as the user who runs the gateway"
        return DaemonState("unknown", reason=reason)
    holding = lock.look(paths.lock_file)
    info = pidfile.read(paths.pid_file)
    if not holding.held:
        return _not_held(paths, holding, info)
    process = holding.holder
    if process is None and info is not None:
        process = info.process
    if process is None:
        # The holder has not yet written its pid, or a foreign program holds the lock.
        return DaemonState("unknown", reason=f"{paths.lock_file} is held by a process that gives no name")
    if not process.alive:
        return DaemonState(
            "unknown", reason=f"{paths.lock_file} is held by a process that is not the gateway"
        )
    if info is None or info.process != process:
        info = pidfile.read_of(process)
    return _living(process, info, timeout_s)


def _foreign_file(paths: Paths) -> Path | None:
    """The first of the gateway's files that this user may not read. Without its token the gateway reports nothing."""
    for path in (paths.lock_file, paths.pid_file):
        try:
            # Without O_NONBLOCK, opening a FIFO at this path would block.
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except PermissionError:
            return path
        except OSError:
            continue
    return None


def _not_held(paths: Paths, holding: lock.Holding, info: PidInfo | None) -> DaemonState:
    if not holding.left_behind and not os.path.lexists(paths.pid_file):
        return DaemonState("stopped")
    process = holding.holder or (info.process if info else None)
    who = f"pid {process.pid}" if process else "the gateway"
    return DaemonState(
        "dead", process, info, reason=f"{who} died and left its files; start works, and so does stop"
    )


def _living(process: Process, info: PidInfo | None, timeout_s: float) -> DaemonState:
    if info is not None and info.phase != "running":
        # A gateway that starts or ends may accept connections and answer none of them.
        timeout_s = min(timeout_s, _BUSY_S)
    live, another = (None, False) if info is None or process.suspended else _ask_status(info, timeout_s)
    if live is not None:
        return DaemonState("running", process, info, live)
    state = _silent(process, info)
    if another and state.state == "unresponsive":
        raise _AnsweredByAnotherError(state)
    return state


def _silent(process: Process, info: PidInfo | None) -> DaemonState:
    if process.suspended:
        reason = f"pid {process.pid} is suspended and does not answer; {_FORCE}, kill -CONT wakes it"
        return DaemonState("unresponsive", process, info, reason=reason)
    if info is None or info.phase == "starting":
        return DaemonState("starting", process, info, reason=f"pid {process.pid} is starting")
    if info.phase == "stopping":
        reason = f"pid {process.pid} finishes running requests and takes no new ones"
        return DaemonState("stopping", process, info, reason=reason)
    return DaemonState("unresponsive", process, info, reason=f"pid {process.pid} does not answer; {_FORCE}")


def _ask_status(info: PidInfo, timeout_s: float) -> tuple[dict[str, Any] | None, bool]:
    """The status document, and whether another program answered instead."""
    try:
        status, document = admin.ask(info, "GET", "/admin/status", timeout_s=timeout_s)
    except (OSError, ValueError) as error:
        return None, type(error).__name__ == "WrongCertificateError"  # without an import of ``ssl``
    # Another program may answer on a port that the gateway has not bound yet, or has passed on.
    ours = status == 200 and isinstance(document, dict) and document.get("pid") == info.pid
    return (document, False) if ours else (None, True)


def stop(
    paths: Paths,
    *,
    force: bool = False,
    on_found: Found | None = None,
    on_progress: Progress | None = None,
) -> StopOutcome:
    """End the gateway after its running requests. With ``force``, kill it when its drain time is over.

    ``on_found`` gets the state of the gateway that is to end. ``on_progress`` gets the seconds waited, about ten times
    a second. Raises ``StopFailed`` if the gateway is still there afterwards. Only the process that holds the lock is
    signalled.
    """
    state = inspect(paths)
    if state.state == "stopped":
        return StopOutcome("not_running")
    if state.state == "dead":
        _clean(paths)
        return StopOutcome("cleaned", state.pid)
    if state.process is None or state.state == "unknown":
        raise StopFailed(f"{state.reason}; nothing was signalled")
    if on_found is not None:
        on_found(state)
    began = time.monotonic()
    killed = _end(paths, state, state.process, force, on_progress)
    _clean(paths)
    return StopOutcome("killed" if killed else "stopped", state.pid, time.monotonic() - began)


def _end(
    paths: Paths, state: DaemonState, process: Process, force: bool, on_progress: Progress | None
) -> bool:
    """End the gateway. True if it had to be killed."""
    hangs = state.state == "unresponsive"
    if hangs and process.suspended and not force:
        raise StopFailed(f"pid {process.pid} is suspended and cannot stop", _FORCE)
    drain_s = state.info.drain_s if state.info else 30.0
    engines = children(process) if force else []
    if not (hangs and force):
        _signal(process, signal.SIGTERM)
        if _gone(paths, process, drain_s if force else drain_s + _MARGIN_S, on_progress):
            return False
        if not force:
            raise StopFailed(f"pid {process.pid} has not stopped within {drain_s + _MARGIN_S:g} s", _FORCE)
    _signal(process, signal.SIGKILL)
    if not _gone(paths, process, _MARGIN_S, on_progress):
        raise StopFailed(f"pid {process.pid} was killed and is still there; the system holds it")
    for engine in engines:
        engine.send(signal.SIGKILL)
    return True


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        process.send(number)
    except PermissionError:
        raise StopFailed(f"pid {process.pid} belongs to another user") from None


def _gone(paths: Paths, process: Process, limit_s: float, on_progress: Progress | None) -> bool:
    """Wait until ``process`` has released the lock."""

    def let_go() -> bool:
        holding = lock.look(paths.lock_file)
        return not holding.held or holding.holder not in (process, None)

    return wait_until(let_go, limit_s, on_progress)


def wait_until(over: Callable[[], bool], limit_s: float, on_progress: Progress | None) -> bool:
    """Wait until ``over`` returns True. False after ``limit_s``. ``on_progress`` gets the seconds waited so far."""
    began = reported_at = time.monotonic()
    while not over():
        now = time.monotonic()
        if now - began > limit_s:
            return False
        if on_progress is not None and now - reported_at >= _PROGRESS_S:
            reported_at = now
            on_progress(now - began)
        time.sleep(_LOOK_S)
    return True


def children(process: Process) -> list[Process]:
    """The engines that the gateway started. A gateway that is killed cannot stop them itself."""
    import psutil

    from sage_inference.daemon.process import create_time

    try:
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    except psutil.Error:
        return []
    return [Process(pid, began) for pid in pids if (began := create_time(pid)) is not None]


def _clean(paths: Paths) -> None:
    """Remove the files of a dead gateway, unless a new one has started meanwhile."""
    lock.clean_up(paths.lock_file, then=lambda: pidfile.remove(paths.pid_file))


def reload(paths: Paths, *, timeout_s: float = 30.0) -> ReloadOutcome:
    """Make the gateway read its configuration again, without dropping a request.

    Raises ``ReloadFailed`` if the configuration is invalid (the old one stays), ``NotRunning``, ``Unresponsive``.
    """
    info = running(paths)
    try:
        status, document = admin.ask(info, "POST", "/admin/reload", timeout_s=timeout_s)
        if status == 200:
            return _reloaded(document)
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer the reload: {error}", _FORCE) from None
    raise ReloadFailed(problem, "nothing was changed; the old configuration stays")


def _reloaded(document: dict[str, Any]) -> ReloadOutcome:
    """The outcome in a response. A gateway of an older version reports instances only."""
    return ReloadOutcome(
        added=tuple(document["added"]),
        removed=tuple(document["removed"]),
        changed=tuple(document["changed"]),
        settings=tuple(document.get("settings", ())),
        needs_restart=tuple(document.get("needs_restart", ())),
        address=document.get("address"),
    )


def running(paths: Paths) -> PidInfo:
    """The state of a gateway that answers. Raises ``NotRunning``, ``Unresponsive``."""
    state = inspect(paths)
    if state.state in ("stopped", "dead"):
        raise NotRunning("the gateway is not running", "sage inference start --background")
    if state.state != "running":
        raise Unresponsive(str(state.reason))
    assert state.info is not None
    return state.info
