"""The address of a keeper's socket, and the user at the other end of a connection."""

from __future__ import annotations

import os
import socket
import struct
import time

from sage_inference.keeper.files import SOCKET

_RETRY_S = 0.005
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def listen(directory: str, name: str = SOCKET) -> tuple[socket.socket, str]:
    """A socket in the directory, and the address by which ``connect`` finds it.

    A path has 107 bytes at most, so the directory is opened and named by its descriptor. A file system that has no
    sockets gets one in the kernel's abstract namespace: any user may connect there, and ``peer`` refuses them.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        try:
            sock.bind(f"/proc/self/fd/{folder}/{name}")
            address = name
        except OSError:
            address = f"@sage-inference-keeper/{os.urandom(16).hex()}"
            sock.bind("\0" + address[1:])
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock, address


def connect(directory: str, address: str, timeout_s: float) -> socket.socket:
    """Raises ``OSError``."""
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            _connect(sock, directory, address)
            return sock
        except BlockingIOError:  # its backlog is full
            sock.close()
            if time.monotonic() > deadline:
                raise TimeoutError("timed out") from None
            time.sleep(_RETRY_S)
        except BaseException:
            sock.close()
            raise


def _connect(sock: socket.socket, directory: str, address: str) -> None:
    if address.startswith("@"):
        sock.connect("\0" + address[1:])
        return
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(address)}")
    finally:
        os.close(folder)


def peer(sock: socket.socket) -> int | None:
    """The pid of the process at the other end. None if it belongs to another user than this one and root."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid if uid in (os.geteuid(), 0) else None
