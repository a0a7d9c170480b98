"""Who holds the lock: the one truth about whether a gateway runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sage_inference.daemon.errors import AlreadyRunning, DaemonError
from sage_inference.daemon.process import Process

# How long a start waits for the holder to say who it is. `status` holds a shared lock for
# microseconds, and a winner writes its pid right after locking: both pass well within this.
_INTRODUCTION_S = 2.0
_RETRY_S = 0.005
# What network and user space file systems answer that cannot lock.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Holding:
    """What the lock file says. ``holder`` is who wrote it last; a holder that died leaves its name."""

    held: bool
    holder: Process | None

    @property
    def left_behind(self) -> bool:
        """True when a holder died without letting go in order."""
        return not self.held and self.holder is not None


class Lock:
    """Held from ``take`` to ``release``, or until the process ends however it ends.

    The file is never removed: a lock on a removed file excludes nobody. Its descriptor is closed
    on exec, so that no engine started by us keeps the lock when we are gone.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Lock:
        """Raises ``AlreadyRunning`` with the holder's pid."""
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + _INTRODUCTION_S
            while not _try(path, descriptor, fcntl.LOCK_EX):
                holder = _read(descriptor)
                if holder is not None and holder.alive:
                    raise AlreadyRunning(holder.pid)
                if time.monotonic() > deadline:
                    raise AlreadyRunning(None)
                time.sleep(_RETRY_S)
            _write(descriptor, Process.current())
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Let go and say so: an empty file is one nobody died over."""
        try:
            os.ftruncate(self._descriptor, 0)
        finally:
            os.close(self._descriptor)


def look(path: Path) -> Holding:
    """Who holds the lock now, without disturbing them."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Holding(False, None)
    try:
        # Shared: two that look don't see each other, and a start that meets us tries again.
        held = not _try(path, descriptor, fcntl.LOCK_SH)
        return Holding(held, _read(descriptor))
    finally:
        os.close(descriptor)


def clean_up(path: Path, then: Callable[[], object]) -> bool:
    """Wipe what a dead holder left and do ``then`` while nobody can start. False if it is held."""
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _try(path, descriptor, fcntl.LOCK_EX):
            return False
        then()
        os.ftruncate(descriptor, 0)
        return True
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Raises ``FileNotFoundError`` if the flags make no file, ``DaemonError`` if it cannot be a lock."""
    try:
        # Without O_NONBLOCK a pipe that lies there would be waited for.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise _unusable(path, "its directory is missing") from None
        raise
    except (OSError, ValueError) as error:
        raise _unusable(path, getattr(error, "strerror", None) or str(error)) from None
    # A directory opens for reading, and can even be locked.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unusable(path, "it is not a regular file")
    return descriptor


def _unusable(path: Path, reason: str) -> DaemonError:
    return DaemonError(
        f"lock file {path} cannot be opened: {reason}",
        "remove it if it is in the way; SAGE_INFERENCE_HOME names another folder for the gateway's files",
    )


def _try(path: Path, descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        missing = error.errno in _NO_LOCKS
        reason = "its file system has no locks" if missing else error.strerror
        raise DaemonError(
            f"lock file {path} cannot be locked: {reason}",
            "SAGE_INFERENCE_HOME names another folder for the gateway's files, such as one on a local disk",
        ) from None
    return True


def _read(descriptor: int) -> Process | None:
    try:
        document = json.loads(os.pread(descriptor, 4096, 0))
        return Process(int(document["pid"]), float(document["create_time"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _write(descriptor: int, holder: Process) -> None:
    text = json.dumps({"pid": holder.pid, "create_time": holder.create_time}).encode()
    # In one write after the cut: who reads in between finds nothing, and looks again.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)
