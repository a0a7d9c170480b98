"""The TCP ports that programs of this machine listen on, and the users that they belong to."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sage_inference.netloc import ALL_ADDRESSES, reachable

# Linux: one line for each socket of this network namespace. Any user may read them, unlike a process's descriptors.
# Format: https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
TABLES = (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6))
_LISTEN = "0A"
_PROBE_S = 0.2  # loopback answers at once; a server whose backlog is full does not
# Accounts of services have lower numbers: UID_MIN of login.defs, and SYS_UID_MAX of systemd.
FIRST_PERSON = 1000


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. ``uid`` is the user that made it, None where the system does not show that.

    ``inode`` is the socket's number, which no other open socket has.
    """

    host: str
    port: int
    uid: int | None = None
    inode: int | None = field(default=None, compare=False)

    def reached_at(self) -> str:
        """The address to connect to. A socket for all addresses is tried, because the system's table does not show all.

        Most of those for all IPv6 addresses take IPv4 too, also where IPv6 is switched off. Those of asyncio do not.
        """
        if self.host not in ALL_ADDRESSES:
            return self.host
        return "127.0.0.1" if self.host != "::" or _takes_ipv4(self.port) else reachable(self.host)

    @property
    def is_on_loopback(self) -> bool:
        return self.host in ALL_ADDRESSES or self.host.startswith(("127.", "::1"))

    @property
    def is_trusted(self) -> bool:
        """Whether prompts may go there unasked: to servers of this user and of the system, not of other people."""
        return self.uid is None or self.uid == os.getuid() or self.uid < FIRST_PERSON


def _takes_ipv4(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_PROBE_S)
        return probe.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED


def listeners(tables: Iterable[tuple[str, int]] = TABLES) -> list[Listener] | None:
    """All listening TCP sockets. None where the system has no such table."""
    found: list[Listener] = []
    read = False
    for path, family in tables:
        with suppress(OSError):
            found += listening_in(Path(path).read_text(encoding="ascii", errors="replace"), family)
            read = True
    return found if read else None


def listening_in(table: str, family: int) -> Iterator[Listener]:
    """The listening sockets of a table in the kernel's format."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        with suppress(ValueError, IndexError, struct.error, OSError):
            if fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield Listener(_address(address, family), int(port, 16), int(fields[7]), int(fields[9]))


def _address(text: str, family: int) -> str:
    """The address in words of 32 bits, each in the byte order of this machine."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):  # an IPv4 address within IPv6
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(family, packed)
