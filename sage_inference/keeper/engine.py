"""Starts the engine's first process."""

from __future__ import annotations

import os
import signal

from sage_inference.keeper.linux import signal_at_parents_death

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NUMBER = 4  # bytes of an errno in the pipe


class CannotRunError(Exception):
    """The program cannot be executed."""


def execute(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, output: int, lock: int | None = None
) -> int:
    """Run ``argv`` in a session of its own, with its output in ``output``. Returns its pid when it was executed.

    The child gets SIGTERM if this process dies. It inherits ``lock``: if keeper and guard are killed at once, the lock
    stays held as long as the child lives. This process must have one thread only, because the child works between fork
    and exec. Raises ``CannotRunError``.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(argv, env, cwd, output, lock, writing, parent)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        failed = pipe.read()
    if not failed:
        return pid
    os.waitpid(pid, 0)
    number = int.from_bytes(failed[:_NUMBER], "little")
    what = cwd if failed[_NUMBER:] else argv[0]
    raise CannotRunError(
        f"{what} cannot be {'entered' if failed[_NUMBER:] else 'run'}: {os.strerror(number)}"
    )


def _become(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    output: int,
    lock: int | None,
    report: int,
    parent: int,
) -> None:
    """Turn this child into the engine. Never returns."""
    where = b""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        # Ignored signals and the mask stay over exec. An engine that ignored SIGTERM or SIGPIPE would behave strangely.
        for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal_at_parents_death(signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if lock is not None:
            os.set_inheritable(lock, True)
        where = b"d"
        os.chdir(cwd)
        where = b""
        os.execvpe(argv[0], list(argv), dict(env))
    except BaseException as error:
        number = (
            error.errno if isinstance(error, OSError) and error.errno else 22
        )  # EINVAL, such as for a NUL
        os.write(report, number.to_bytes(_NUMBER, "little") + where)
    os._exit(127)
