"""The process that holds a TCP port. Every room may use it; ``psutil`` is loaded by the first question."""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A process with a socket at a port. Each part is None where this user may not see it."""

    pid: int | None
    program: str | None = None
    user: str | None = None
    is_ours: bool = True  # whether this user may signal it

    @property
    def words(self) -> str:
        """The holder as a part of a sentence: ``pid 4121 (python3, user bob)``."""
        if self.pid is None:
            return "a program of another user"
        known = [self.program or "", f"user {self.user}" if self.user else ""]
        about = ", ".join(filter(None, known))
        return f"pid {self.pid} ({about})" if about else f"pid {self.pid}"

    def remedy(self, port: int) -> str:
        """The command that ends it, or the one that shows it, as the start of a sentence."""
        if self.pid is not None:
            return f"{'' if self.is_ours else 'sudo '}kill {self.pid} ends it"
        if sys.platform == "linux":
            return f"sudo ss -tlnp 'sport = :{port}' shows it"
        return f"sudo lsof -nP -iTCP:{port} shows it"


def port_holder(port: int, host: str | None = None) -> PortHolder | None:
    """The holder of ``port``, at ``host`` first; None if no socket is there, or the system does not list sockets.

    A socket that is bound and does not listen yet is on no list: vLLM's is for minutes.
    """
    import psutil

    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # macOS shows them to root only
        return None
    # The kernel keeps a closed connection for a minute, without a process, and lets others bind its port.
    at_port = [
        (each.laddr.ip, each)
        for each in sockets
        if each.laddr and each.laddr.port == port and each.status != psutil.CONN_TIME_WAIT
    ]
    if not at_port:
        return None
    # A listener on all addresses, or on another one of a name, comes second: names are not resolved here.
    _, first = min(
        at_port,
        key=lambda at: (at[1].pid is None, at[1].status != psutil.CONN_LISTEN, not _same(at[0], host)),
    )
    pid = first.pid
    return PortHolder(None, is_ours=False) if pid is None else _described(pid)


def _described(pid: int) -> PortHolder:
    import psutil

    program = user = None
    is_ours = True
    try:
        process = psutil.Process(pid)
        program = process.name()
        is_ours = os.geteuid() in (0, process.uids().real)
        user = process.username()
    except (psutil.Error, KeyError):  # it has just ended; or its user has no name
        pass
    return PortHolder(pid, program, user, is_ours)


def _same(address: str, host: str | None) -> bool:
    try:
        return host is not None and ipaddress.ip_address(address) == ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
