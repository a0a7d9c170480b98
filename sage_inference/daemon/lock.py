"""Who holds the lock: the one truth about whether a gateway runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
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
        descriptor = _open(path)
        try:
            deadline = time.monotonic() + _INTRODUCTION_S
            while not _try(descriptor, fcntl.LOCK_EX):
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Holding(False, None)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        # Shared: two that look don't see each other, and a start that meets us tries again.
        held = not _try(descriptor, fcntl.LOCK_SH)
        return Holding(held, _read(descriptor))
    finally:
        os.close(descriptor)


def clean_up(path: Path, then: Callable[[], object]) -> bool:
    """Wipe what a dead holder left and do ``then`` while nobody can start. False if it is held."""
    descriptor = _open(path)
    try:
        if not _try(descriptor, fcntl.LOCK_EX):
            return False
        then()
        os.ftruncate(descriptor, 0)
        return True
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> DaemonError:
    return DaemonError(
        f"lock file {path} cannot be opened: {error.strerror}", "SAGE_INFERENCE_HOME puts it elsewhere"
    )


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.ENOLCK:
            raise DaemonError(
                "the file system of the state directory has no locks",
                "SAGE_INFERENCE_HOME puts it on a local one",
            ) from None
        raise
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
