"""Makes the listening socket, or explains why it cannot."""

from __future__ import annotations

import errno
import socket

from sage_inference.daemon.errors import BindError, PortTaken
from sage_inference.port_holder import PortHolder, port_holder

_BACKLOG = 4096


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host:port``. Raises ``PortTaken``, which names the holder, or ``BindError``."""
    return _bound(host, port, listens=True)


def check_free(host: str, port: int) -> None:
    """Raises the errors of ``bind``. A gateway that starts at the same time is not disturbed."""
    _bound(host, port, listens=False).close()


def _bound(host: str, port: int, *, listens: bool) -> socket.socket:
    family, address = resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of the last run in TIME_WAIT must not keep the next one from starting.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Two sockets with SO_REUSEADDR may both bind, so only ``listen`` makes the port ours.
        if listens:
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _explained(error, host, port) from None
    sock.setblocking(False)
    return sock


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The one address that ``bind`` takes. Raises ``BindError``."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(bare or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BindError(
            f"host {host!r} is not known: {reason}; choose another with --host or server.host"
        ) from None
    # IPv4 first: a name such as localhost may have both, and some clients know IPv4 only.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]


def _explained(error: OSError, host: str, port: int) -> BindError:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port, host) or PortHolder(None)
        return PortTaken(host, port, holder.pid, holder.program)
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(
            f"{host} is not an address of this machine; choose another with --host or server.host"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return BindError(
            f"port {port} on {host} is for privileged programs; choose one of 1024 or above with --port"
        )
    return BindError(f"cannot listen on port {port} of {host}: {error.strerror or error}")
