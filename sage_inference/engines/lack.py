"""Resources that this machine can run out of while a connection is made. The engine is not at fault then."""

from __future__ import annotations

import errno
import os
import re
import socket

from sage_inference.engines.unix_socket import SocketError
from sage_inference.error_chain import causes_of

_ALWAYS_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})
# A lack here, unless another address of the same engine failed in another way: a name may have an address of a kind
# that this machine does not use, such as ::1 where IPv6 is off.
_OURS_ALONE = frozenset({errno.EADDRNOTAVAIL, errno.EADDRINUSE})
# Event loops put the failures of several addresses into one text.
_NUMBER = re.compile(r"\[Errno (\d+)\]")
_NO_LIMIT = 1 << 31
_RESOLVER_FILES = 3  # descriptors that resolving a name takes at once


class LackError(OSError):
    """No connection was made because this machine lacks something. ``what`` names it, and how to get more."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, what)
        self.what = what


def lack(error: BaseException) -> LackError | None:
    """The resource that is lacking, or None if the other side failed.

    A local firewall (EPERM, EACCES) is not a lack: waiting does not help, and another instance may be reachable.
    """
    if isinstance(error, LackError):
        return error
    numbers: set[int] = set()
    for cause in causes_of(error):
        if isinstance(cause, socket.gaierror):
            # If the resolver cannot open a file, it reports an unknown name.
            if not descriptors_are_left(_RESOLVER_FILES):
                numbers.add(errno.EMFILE)
        elif isinstance(cause, OSError) and not isinstance(cause, SocketError):  # which is the engine's fault
            numbers |= {cause.errno} if cause.errno else {int(n) for n in _NUMBER.findall(str(cause))}
    ours = numbers & _ALWAYS_OURS
    if not ours and numbers and numbers <= _OURS_ALONE:
        ours = numbers
    if not ours:
        return None
    number = min(ours, key=lambda one: (one != errno.EMFILE, one))
    return LackError(number, _named(number))


def descriptors_are_left(count: int) -> bool:
    """Whether this process can open ``count`` files now."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def open_files_limit() -> int:
    """The number of descriptors that the system grants this process now."""
    try:
        import resource
    except ImportError:  # Windows, where only clients run, has no such limit
        return _NO_LIMIT
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NO_LIMIT if soft == resource.RLIM_INFINITY else soft


def _named(number: int) -> str:
    if number == errno.EMFILE:
        return (
            f"the limit of {open_files_limit()} open files is reached; raise it with ulimit -n,"
            " or with LimitNOFILE= in the service's unit"
        )
    if number == errno.ENFILE:
        return "the limit of open files of the whole machine is reached; raise it with sysctl fs.file-max"
    if number in (errno.ENOBUFS, errno.ENOMEM):
        return "the machine has no memory left for another socket"
    return (
        "no local port or address is free for another connection; widen the range of ports with"
        " sysctl net.ipv4.ip_local_port_range, or give this machine an address of the engine's kind (IPv4, IPv6)"
    )
