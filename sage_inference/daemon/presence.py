"""The gateway's name in the kernel: a second lock, which is not a file and so cannot be deleted.

The lock file excludes others only while it lies in its folder. A name in Linux's abstract socket namespace
belongs to a process, and the kernel reports that process.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from pathlib import Path

from sage_inference.daemon.errors import AlreadyRunning
from sage_inference.daemon.process import Process, create_time

_EXISTS = sys.platform == "linux"
_LONGEST = 90  # bytes of a name after its prefix
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
# A process that is being killed may release the lock file a moment before the name.
_ENDING_S = 0.5
_RETRY_S = 0.005


class Presence:
    """A name that is held until ``close``, or until every process that holds it has ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def take(cls, folder: Path) -> Presence | None:
        """Take the name of the gateway whose files lie in ``folder``.

        None if the system has no such names, or another user holds the name. Raises ``AlreadyRunning``.
        """
        if not _EXISTS:
            return None
        deadline = time.monotonic() + _ENDING_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(_name(folder))
                return cls._listening(sock)
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    return None
            if time.monotonic() > deadline:
                found = holder(folder)
                if found is None:
                    return None  # another user's
                raise AlreadyRunning(found.pid)
            time.sleep(_RETRY_S)

    @classmethod
    def adopt(cls, descriptor: int) -> Presence:
        """A name that its holder passed to this process. From now on the kernel reports this process."""
        return cls._listening(socket.socket(fileno=descriptor))

    @classmethod
    def _listening(cls, sock: socket.socket) -> Presence:
        sock.listen(64)  # from now on this process is the one that ``holder`` reports
        sock.setblocking(False)
        return cls(sock)

    def close(self) -> None:
        self.sock.close()


def holder(folder: Path) -> Process | None:
    """The process that holds the name, if ``peer`` trusts it."""
    if not _EXISTS:
        return None
    sock = connect(folder)
    if sock is None:
        return None
    with sock:
        return peer(sock, folder)


def connect(folder: Path) -> socket.socket | None:
    """A connection to the holder of the name. None if no process holds it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(0)
    try:
        sock.connect(_name(folder))
    except OSError:
        sock.close()
        return None
    return sock


def peer(sock: socket.socket, folder: Path) -> Process | None:
    """The process at the other end if it belongs to this user, to root, or, seen by root, to the folder's owner.

    Any user can bind any name. A process of another user must not keep root's gateway from starting, and ``stop``
    must not signal it.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    if uid not in (os.geteuid(), 0) and not (os.geteuid() == 0 and uid == _owner(folder)):
        return None
    began = create_time(pid)
    return None if began is None else Process(pid, began)


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def may_succeed(sock: socket.socket) -> bool:
    """True if the process at the other end is this user's or root's.

    This is narrower than ``peer``: root may see the gateway of a folder's owner, but passes its place to root only.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (os.geteuid(), 0)


def _name(folder: Path) -> bytes:
    """The name, which differs between containers with files of their own. The kernel's limit is 107 bytes, so a long
    one is hashed.
    """
    try:
        files = os.readlink("/proc/self/ns/mnt")  # noqa: PTH115 - not a path
    except OSError:
        files = ""
    where = os.fsencode(f"{files}:{os.path.realpath(folder)}")
    if len(where) > _LONGEST:
        from hashlib import sha256  # late, because it loads OpenSSL, which takes as long as ``status`` itself

        where = sha256(where).hexdigest().encode()
    return b"\0sage-inference/" + where
