"""Replaces the running gateway by a new one. If that fails, the old one runs on or is started again."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_inference.config.errors import ConfigError
from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import handover
from sage_inference.daemon.bind import bind, resolve
from sage_inference.daemon.control import DaemonState, Found, Progress, children, inspect, stop, wait_until
from sage_inference.daemon.end_report import EndReport, EndReportAwaited
from sage_inference.daemon.errors import DaemonError, PortTaken
from sage_inference.daemon.launch_spec import flags_from
from sage_inference.daemon.managed import keep_engines
from sage_inference.daemon.own_service import restart_command
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.predecessor import Predecessor
from sage_inference.daemon.process import Process
from sage_inference.daemon.spawn import Started, start_background

_MARGIN_S = 5.0  # after the drain time


class RestartFailed(DaemonError):
    """No new gateway runs. The message reports whether the old one does."""

    code = "restart_failed"


@dataclass(frozen=True, slots=True)
class Restarted:
    """``still_ending`` is the old gateway's pid if its requests took longer than its drain time.

    ``ends``: what became of its last requests. None if it did not report that.
    """

    started: Started
    still_ending: int | None = None
    ends: EndReport | None = None


def restart(
    paths: Paths,
    *,
    api_key: str | None = None,
    force: bool = False,
    on_found: Found | None = None,
    on_progress: Progress | None = None,
    on_wait: Progress | None = None,
) -> Restarted:
    """Start a new gateway with the same configuration file, flags and directory, and end the old one.

    The new one starts beside the old one and takes over its socket when it is ready. So no connection is
    refused, and the old one runs on if the new one cannot start. A stopped gateway is just started.
    ``api_key`` is needed again if it was a literal. ``on_found`` gets the state of the old one, ``on_progress`` the
    seconds that its end is waited for, ``on_wait`` those of the new one's start. Raises ``RestartFailed``, ``StopFailed``, ``ConfigError``.
    """
    state = inspect(paths)
    if state.state in ("stopped", "dead"):
        return Restarted(start_background(paths, Flags(api_key=api_key), on_wait=on_wait))
    info = _restartable(state, api_key)
    flags = flags_from(info.flags)
    if api_key is not None:
        flags = replace(flags, api_key=api_key)
    paths = Paths(Path(info.config_path), paths.state_dir, paths.log_dir)
    if on_found is not None:
        on_found(state)
    report = EndReportAwaited.ask(info.process, paths.state_dir)
    with _inside(info.directory):
        if state.state == "unresponsive" or info.phase == "stopping":
            replaced = _one_after_the_other(paths, flags, info, force, on_progress, on_wait)
            return replace(replaced, ends=report.read())
        started = _side_by_side(paths, flags, info, on_wait)
        if started is None:
            if inspect(paths).state == "stopped":
                message = "not restarted: the gateway was stopped meanwhile"
                raise RestartFailed(message, "sage inference start --background")
            replaced = _one_after_the_other(paths, flags, info, force, on_progress, on_wait)
            return replace(replaced, ends=report.read())
        return Restarted(started, _ended(info, force, on_progress), report.read())


def _side_by_side(paths: Paths, flags: Flags, info: PidInfo, on_wait: Progress | None) -> Started | None:
    """Start the new gateway beside the old one. None if the old one cannot pass on its place."""
    relieves = Predecessor(info.process, info.host, info.port)
    try:
        return start_background(paths, flags, on_wait=on_wait, relieves=relieves)
    except (DaemonError, ConfigError, OSError) as error:
        if isinstance(error, DaemonError) and error.code == handover.NoHandoverError.code:
            return None
        now = _settled(paths, on_wait)
        if now.state in ("stopped", "dead"):
            return _come_back(paths, flags, info, error, on_wait)
        goes_on = now.pid == info.pid and now.state != "unresponsive"
        raise _failed(error, f"pid {now.pid} goes on as before" if goes_on else _runs(now)) from error


def _settled(paths: Paths, on_wait: Progress | None) -> DaemonState:
    """The state when the old gateway answers again. It may have released its port to the new one, and listens again
    some time after that has ended.
    """
    now = inspect(paths)

    def answers() -> bool:
        nonlocal now
        now = inspect(paths)
        return now.state != "unresponsive"

    wait_until(answers, _MARGIN_S, on_wait)
    return now


def _one_after_the_other(
    paths: Paths,
    flags: Flags,
    info: PidInfo,
    force: bool,
    on_progress: Progress | None,
    on_wait: Progress | None,
) -> Restarted:
    """Stop the old gateway, then start the new one.

    This is for a gateway that hangs, is ending, or is of a version that cannot pass on its place.
    """
    _check(paths, flags, info)
    with contextlib.suppress(DaemonError):  # a gateway that hangs, or of a version without engines
        keep_engines(info)
    stop(paths, force=force, on_progress=on_progress)
    try:
        return Restarted(start_background(paths, flags, on_wait=on_wait))
    except (DaemonError, ConfigError, OSError) as error:
        return Restarted(_come_back(paths, flags, info, error, on_wait))


def _check(paths: Paths, flags: Flags, info: PidInfo) -> None:
    """Check what can be checked before the old one is stopped. Raises ``ConfigError``, ``BindError``."""
    from sage_inference.daemon.run import load_settings

    server = load_settings(paths, flags).server
    if _same_address(paths, flags, info):
        return
    try:
        bind(server.host, server.port).close()
    except PortTaken:
        if server.port != info.port:  # otherwise the old one may hold the port
            raise


def _same_address(paths: Paths, flags: Flags, info: PidInfo) -> bool:
    from sage_inference.daemon.run import load_settings

    server = load_settings(paths, flags).server
    return resolve(server.host, server.port)[1][:2] == (info.host, info.port)


def _come_back(
    paths: Paths, flags: Flags, info: PidInfo, error: Exception, on_wait: Progress | None
) -> Started:
    """Start a gateway again on the old one's address. Always raises ``RestartFailed``."""
    try:
        if not _same_address(paths, flags, info):
            flags = replace(flags, host=info.host, port=info.port)
        again = start_background(paths, flags, on_wait=on_wait)
    except (DaemonError, ConfigError, OSError):
        now = inspect(paths)
        raise _failed(error, _runs(now)) from error
    raise _failed(error, f"it runs again at {again.status['address']} (pid {again.pid})") from error


def _runs(now: DaemonState) -> str:
    if now.state in ("stopped", "dead"):
        return "no gateway runs now"
    return str(now.reason) if now.state == "unresponsive" else f"pid {now.pid} runs now"


def _failed(error: Exception, now: str) -> RestartFailed:
    hint = getattr(error, "hint", None)
    problem = error.problem if isinstance(error, DaemonError) else str(error).removesuffix(f"; {hint}")
    return RestartFailed(f"not restarted: {problem}; {now}", hint)


def _ended(info: PidInfo, force: bool, on_progress: Progress | None) -> int | None:
    """Wait while the old one finishes its requests. Returns its pid if it has not ended in time."""
    process = info.process
    engines = children(process) if force else []
    if _gone(process, info.drain_s if force else info.drain_s + _MARGIN_S, on_progress):
        return None
    if force:
        process.send(signal.SIGKILL)
        for engine in engines:
            engine.send(signal.SIGKILL)
        if _gone(process, _MARGIN_S, None):
            return None
    return info.pid


def _gone(process: Process, limit_s: float, on_progress: Progress | None) -> bool:
    return wait_until(lambda: not process.alive, limit_s, on_progress)


def _restartable(state: DaemonState, api_key: str | None) -> PidInfo:
    info = state.info
    if info is None:
        raise DaemonError(
            f"how the gateway was started is not known: {state.reason or 'its pidfile is missing'}",
            "stop it and start it",
        )
    if info.supervised:
        raise DaemonError(
            f"pid {info.pid} runs under a supervisor, which would start another one, or is what a container runs",
            " with ".join(filter(None, ("restart it there", restart_command(info)))),
        )
    if info.needs_api_key and api_key is None:
        raise DaemonError(
            "the gateway was started with a literal --api-key, which is stored nowhere",
            "give it again: sage inference restart --api-key KEY",
        )
    return info


@contextlib.contextmanager
def _inside(directory: str | None) -> Any:
    """Work in the old gateway's directory, because relative paths in flags and configuration belong to it."""
    if directory is None or not Path(directory).is_dir():
        yield
        return
    with contextlib.chdir(directory):
        yield
