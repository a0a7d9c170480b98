"""Errors between a user and the background process."""

from __future__ import annotations


class DaemonError(Exception):
    """``problem`` describes the fault, ``hint`` the remedy, and ``code`` is for scripts."""

    code = "daemon"
    exit_code = 1

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class AlreadyRunning(DaemonError):  # noqa: N818 - a state rather than an error
    """Another process holds the lock. ``pid`` is None if it has not written its pid."""

    code = "already_running"

    def __init__(self, pid: int | None) -> None:
        who = "" if pid is None else f" (pid {pid})"
        super().__init__(f"the gateway is already running{who}", "sage inference status shows it")
        self.pid = pid


class BindError(DaemonError):
    """The gateway cannot listen on its address."""

    code = "bind"


class PortTaken(BindError):
    """Another process listens on the port. ``pid`` and ``program`` are None if this user may not see them."""

    code = "port_taken"

    def __init__(self, host: str, port: int, pid: int | None = None, program: str | None = None) -> None:
        name = f" ({program})" if program else ""
        holder = "another process" if pid is None else f"pid {pid}{name}"
        super().__init__(
            f"port {port} on {host} is taken by {holder}; choose another with --port or server.port"
        )
        self.host = host
        self.port = port
        self.pid = pid
        self.program = program


class StartFailed(DaemonError):
    """The background process ended before it was ready. ``status`` is as in ``Popen.returncode``."""

    code = "start_failed"

    def __init__(self, status: int | None, cause: str, hint: str | None = None) -> None:
        super().__init__(f"gateway {_ending(status)} before it was ready: {cause}", hint)
        self.status = status
        self.cause = cause


class StartTimeout(DaemonError):
    """The background process was not ready in time, and was ended."""

    code = "start_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"gateway was not ready within {seconds:g} s and was ended", LOG_HINT)
        self.seconds = seconds


class NotRunning(DaemonError):
    """No gateway runs."""

    code = "not_running"


class Unresponsive(DaemonError):
    """The gateway's process lives but does not answer."""

    code = "unresponsive"


class StopFailed(DaemonError):
    """The gateway has not ended."""

    code = "stop_failed"


class ReloadFailed(DaemonError):
    """The configuration was not applied. The old one stays."""

    code = "reload_failed"


LOG_HINT = "sage inference logs -n 20"
UNEXPECTED = "unexpected"  # code of any other error


def _ending(status: int | None) -> str:
    if status is None:
        return "gave up"
    if status >= 0:
        return f"exited with status {status}"
    import signal

    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
