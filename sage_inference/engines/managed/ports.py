"""A free port, and a path for a Unix socket."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Container
from pathlib import Path

from sage_inference.engines.managed.launch import LaunchError
from sage_inference.keeper import files
from sage_inference.port_holder import port_holder

# The longest path of a Unix socket is 107 bytes on Linux.
LONGEST_SOCKET_PATH = 107
_HOST = "127.0.0.1"
# A port is free until the engine that it was given to binds it, which takes vLLM half a minute.
_RESERVED_S = 300.0
_given: dict[int, float] = {}
_choosing = threading.Lock()  # engines are prepared at the same time, in threads


def free_port(ports: range, taken: Container[int] = ()) -> int:
    """The first port that can be bound. Raises ``LaunchError`` if there is none.

    A port that was given in the last minutes is given again only if there is no other. A connect would not do:
    vLLM binds its port minutes before it listens, and a connection is refused until then.
    """
    with _choosing:
        now = time.monotonic()
        free = [port for port in ports if port not in taken]
        reserved = [port for port in free if now - _given.get(port, -_RESERVED_S) < _RESERVED_S]
        for port in (*(port for port in free if port not in reserved), *reserved):
            if _can_bind(port):
                _given[port] = now
                return port
    holder = port_holder(ports[0])
    taken_by = f"; {ports[0]} is taken by {holder.words}" if holder else ""
    remedy = f"{holder.remedy(ports[0])}; or " if holder else ""
    raise LaunchError(
        f"no port from {ports[0]} to {ports[-1]} is free{taken_by}",
        f"{remedy}set managed.ports to a range with free ports",
    )


def port_of(url: str) -> int | None:
    """The port of an engine's URL; None for a Unix socket."""
    port = url.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def _can_bind(port: int) -> bool:
    # An engine listens on one address, but another program may hold the port on all of them.
    for host in (_HOST, ""):
        with socket.socket() as probe:
            # No SO_REUSEADDR: with it, a port counts as free that a loading vLLM has bound and does not listen on.
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def socket_path(directory: Path) -> Path | None:
    """A new path for an engine's socket in its private directory. None if it is too long for a socket.

    The path is another one each time: an engine that still runs keeps its own, and a bind to an existing file fails.
    """
    sweep_sockets(directory)
    path = directory / f"engine-{secrets.token_hex(3)}.sock"
    return path if len(bytes(path)) <= LONGEST_SOCKET_PATH else None


def sweep_sockets(directory: Path) -> None:
    """Remove the sockets of former engines of this directory, which a killed engine leaves."""
    # Listed before the look at the lock: a keeper that takes it after that look has an engine with a newer file.
    there = list(directory.glob("engine-*.sock"))
    try:
        if there and files.is_held(str(directory)):
            return  # one of them is the running engine's
    except OSError:
        return
    for path in there:
        if _is_abandoned(path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether nobody listens at the socket."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
