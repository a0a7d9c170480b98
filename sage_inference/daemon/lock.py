"""Who holds the lock: the one truth about whether a gateway runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sage_inference.daemon.errors import AlreadyRunning, DaemonError
from sage_inference.daemon.presence import Presence, holder
from sage_inference.daemon.process import Process

# How long a start waits for the holder to say who it is. `status` holds a shared lock for
# microseconds, and a winner writes its pid right after locking: both pass well within this.
_INTRODUCTION_S = 2.0
_RETRY_S = 0.005
# What network and user space file systems answer that cannot lock.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_ELSEWHERE = "SAGE_INFERENCE_HOME names another folder for the gateway's files"


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

    We never remove the file, because a lock on a removed file excludes nobody. ``put_back`` makes up for
    others who do, and the holder's ``Presence`` excludes a second one until then. The descriptor is closed
    on exec, so that no engine started by us keeps the lock when we are gone.
    """

    def __init__(self, path: Path, descriptor: int, presence: Presence | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self.presence = presence

    @classmethod
    def take(cls, path: Path) -> Lock:
        """Raises ``AlreadyRunning`` with the holder's pid."""
        descriptor = cls._locked(path)
        try:
            presence = Presence.take(path.parent)
            _write(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, presence)

    @classmethod
    def adopt(cls, path: Path, descriptor: int, presence: int | None) -> Lock:
        """The lock that its holder passed to this process."""
        taken = cls(path, descriptor, None if presence is None else Presence.adopt(presence))
        # The predecessor has left: a full disk must not leave nobody. The name shows this process.
        with suppress(DaemonError):
            _write(path, descriptor)
        return taken

    @staticmethod
    def _locked(path: Path) -> int:
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
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @property
    def descriptors(self) -> list[int]:
        """All that a successor needs for ``adopt``."""
        return [self._descriptor, *([self.presence.sock.fileno()] if self.presence else [])]

    @property
    def in_place(self) -> bool:
        """False if the file was removed or replaced."""
        try:
            there = self._path.lstat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def put_back(self) -> bool:
        """Make the file anew and lock it; False while somebody else holds a lock on the one that is there.

        That is a ``start`` that is about to find our ``Presence``, or ``status`` for a moment.
        """
        descriptor = _open(self._path, os.O_RDWR | os.O_CREAT)
        if not _try(self._path, descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return False
        try:
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)  # somebody else may have made it
            _write(self._path, descriptor)
        except DaemonError:
            os.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        os.close(old)
        return True

    def release(self) -> None:
        """Let go and say so: an empty file is one nobody died over."""
        if self.presence:
            self.presence.close()  # first, so that one who gets the lock gets the name
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def leave(self) -> None:
        """Let go of a lock that a successor has adopted."""
        if self.presence:
            self.presence.close()
        os.close(self._descriptor)


def look(path: Path) -> Holding:
    """Who holds the lock now, without disturbing them."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _by_name(path)
    try:
        # Shared: two that look don't see each other, and a start that meets us tries again.
        held = not _try(path, descriptor, fcntl.LOCK_SH)
        found = Holding(held, _read(descriptor))
    finally:
        os.close(descriptor)
    if found.held and found.holder is not None and found.holder.alive:
        return found
    named = _by_name(path)
    return named if named.held else found


def _by_name(path: Path) -> Holding:
    """Who holds the lock on a file that lay here, and was removed or replaced."""
    process = holder(path.parent)
    return Holding(process is not None, process)


def clean_up(path: Path, then: Callable[[], object]) -> bool:
    """Wipe what a dead holder left and do ``then`` while nobody can start. False if it is held."""
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _try(path, descriptor, fcntl.LOCK_EX) or holder(path.parent) is not None:
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
        f"remove it if it is in the way; {_ELSEWHERE}",
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
            f"{_ELSEWHERE}, such as one on a local disk",
        ) from None
    return True


def _read(descriptor: int) -> Process | None:
    try:
        document = json.loads(os.pread(descriptor, 4096, 0))
        return Process(int(document["pid"]), float(document["create_time"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _write(path: Path, descriptor: int) -> None:
    """Write who this process is. Raises ``DaemonError``."""
    holder = Process.current()
    text = json.dumps({"pid": holder.pid, "create_time": holder.create_time}).encode()
    try:
        # Over what is there, so that a full disk does no harm. A reader before the cut may find no JSON,
        # and looks again.
        if os.pwrite(descriptor, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(text))
    except OSError as error:
        raise DaemonError(f"lock file {path} cannot be written: {error.strerror}", _ELSEWHERE) from None


def refuse_second(path: Path) -> None:
    """Raises ``AlreadyRunning`` where a living process holds the lock. ``Lock.take`` still decides."""
    holding = look(path)
    if holding.held and holding.holder is not None and holding.holder.alive:
        raise AlreadyRunning(holding.holder.pid)
