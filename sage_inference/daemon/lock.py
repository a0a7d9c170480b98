"""The lock. A gateway runs if and only if a process holds it."""

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

# How long a start waits for the holder to write its pid. `status` holds a shared lock for
# microseconds, and a new holder writes its pid right after locking: both take much less.
_INTRODUCTION_S = 2.0
_RETRY_S = 0.005
# Errors of network and user space file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_ELSEWHERE = "SAGE_INFERENCE_HOME names another folder for the gateway's files"


@dataclass(frozen=True, slots=True)
class Holding:
    """The lock file's content. ``holder`` is the last process that wrote it, which may have died."""

    held: bool
    holder: Process | None

    @property
    def left_behind(self) -> bool:
        """True if the holder died without releasing the lock."""
        return not self.held and self.holder is not None


class Lock:
    """Held from ``take`` to ``release``, or until the process ends in any way.

    We never remove the file, because a lock on a removed file excludes no other process. ``put_back`` replaces a
    file that was removed, and the holder's ``Presence`` excludes a second holder until then. The descriptor is
    closed on exec, so that no engine started by us keeps the lock after our end.
    """

    def __init__(self, path: Path, descriptor: int, presence: Presence | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self.presence = presence

    @classmethod
    def take(cls, path: Path) -> Lock:
        """Take the lock. Raises ``AlreadyRunning`` with the holder's pid."""
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
        # The predecessor has left, so a full disk must not end this process too. Its name shows its pid.
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
        """The descriptors that a successor needs for ``adopt``."""
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
        """Make the file again and lock it. False while another process holds a lock on a new file.

        Such a process is a ``start`` that is about to find our ``Presence``, or for a moment ``status``.
        """
        descriptor = _open(self._path, os.O_RDWR | os.O_CREAT)
        if not _try(self._path, descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return False
        try:
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)  # another process may have made it
            _write(self._path, descriptor)
        except DaemonError:
            os.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        os.close(old)
        return True

    def release(self) -> None:
        """Empty the file and release the lock. An empty file shows that its holder did not die."""
        if self.presence:
            self.presence.close()  # first, so that the next holder of the lock gets the name
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def leave(self) -> None:
        """Close a lock that a successor has adopted."""
        if self.presence:
            self.presence.close()
        os.close(self._descriptor)


def look(path: Path) -> Holding:
    """The present holder of the lock, without disturbing it."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _by_name(path)
    try:
        # A shared lock: two processes that look do not exclude each other, and a start that finds it tries again.
        held = not _try(path, descriptor, fcntl.LOCK_SH)
        found = Holding(held, _read(descriptor))
    finally:
        os.close(descriptor)
    if found.held and found.holder is not None and found.holder.alive:
        return found
    named = _by_name(path)
    return named if named.held else found


def _by_name(path: Path) -> Holding:
    """The holder of a lock on a file that was removed or replaced, by its name in the kernel."""
    process = holder(path.parent)
    return Holding(process is not None, process)


def clean_up(path: Path, then: Callable[[], object]) -> bool:
    """Empty the file of a dead holder and call ``then``, while no gateway can start. False if the lock is held."""
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
    """Raises ``FileNotFoundError`` if the flags create no file, ``DaemonError`` if it cannot be locked."""
    try:
        # Without O_NONBLOCK, opening a FIFO at this path would block.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise _unusable(path, "its directory is missing") from None
        raise
    except (OSError, ValueError) as error:
        raise _unusable(path, getattr(error, "strerror", None) or str(error)) from None
    # A directory can be opened for reading, and even locked.
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
    """Write this process's pid. Raises ``DaemonError``."""
    holder = Process.current()
    text = json.dumps({"pid": holder.pid, "create_time": holder.create_time}).encode()
    try:
        # Over the old content, so that a full disk does no harm. Before the cut a reader may find invalid JSON,
        # and tries again.
        if os.pwrite(descriptor, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(text))
    except OSError as error:
        raise DaemonError(f"lock file {path} cannot be written: {error.strerror}", _ELSEWHERE) from None


def refuse_second(path: Path) -> None:
    """Raises ``AlreadyRunning`` if a living process holds the lock. The decision is still that of ``Lock.take``."""
    holding = look(path)
    if holding.held and holding.holder is not None and holding.holder.alive:
        raise AlreadyRunning(holding.holder.pid)
