"""What can go wrong between a person and the background process."""

from __future__ import annotations


class DaemonError(Exception):
    """``problem`` says what is wrong, ``hint`` how to mend it; ``code`` is the word scripts see."""

    code = "daemon"
    exit_code = 1

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class AlreadyRunning(DaemonError):  # noqa: N818 - a state, told politely
    """Another process holds the lock. ``pid`` is None when it didn't say who it is."""

    code = "already_running"

    def __init__(self, pid: int | None) -> None:
        who = "" if pid is None else f" (pid {pid})"
        super().__init__(f"the gateway is already running{who}", "sage inference status shows it")
        self.pid = pid


class BindError(DaemonError):
    """The address cannot be listened on."""

    code = "bind"


class PortTaken(BindError):
    """Somebody listens there. ``pid`` and ``program`` are None where the system doesn't tell us."""

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
    """The background process ended before it was ready. ``status`` as in ``Popen.returncode``."""

    code = "start_failed"

    def __init__(self, status: int | None, cause: str, hint: str | None = None) -> None:
        super().__init__(f"gateway {_ending(status)} before it was ready: {cause}", hint)
        self.status = status
        self.cause = cause


class StartTimeout(DaemonError):
    """The background process lived, and wasn't ready in time; it was ended."""

    code = "start_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"gateway was not ready within {seconds:g} s and was ended", LOG_HINT)
        self.seconds = seconds


class NotRunning(DaemonError):
    """There is no gateway to talk to."""

    code = "not_running"


class Unresponsive(DaemonError):
    """The gateway's process lives and doesn't answer."""

    code = "unresponsive"


class StopFailed(DaemonError):
    """The gateway is still there."""

    code = "stop_failed"


class ReloadFailed(DaemonError):
    """The configuration was not taken over; the old one holds."""

    code = "reload_failed"


LOG_HINT = "sage inference logs -n 20"
UNEXPECTED = "unexpected"  # code of an error that nobody foresaw


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
