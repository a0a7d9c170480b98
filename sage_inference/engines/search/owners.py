"""The users of listening sockets, as they are outside of the user namespace of the gateway's unit.

The unit that ``sage inference service install`` writes has a user namespace, in which all other users have one number.
So an engine in Docker, whose port belongs to root, would look like that of another person. The user manager of systemd
runs outside of that namespace, and reads the table for us.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sage_inference.engines.search.listeners import TABLES, Listener, listening_in
from sage_inference.keeper.transient_unit import manager, user_runtime

_EVERYBODY = "0 0 4294967295"
_TIMEOUT_S = 5.0
_found: dict[
    int | None, int | None
] = {}  # the users of the sockets in the last table that was read outside, by inode


def are_hidden(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether this process does not see the numbers of other users."""
    try:
        return " ".join(uid_map.read_text(encoding="ascii").split()) != _EVERYBODY
    except OSError:
        return False


def with_owners(listeners: Iterable[Listener]) -> list[Listener]:
    """The same sockets with the users that they really have, as far as systemd can find out. Takes 0.1 s.

    systemd is asked for a socket that it was not asked for before, because each question is a line in the journal.
    """
    asked = list(listeners)
    hidden: dict[int | None, int | None] = {
        each.inode: each.uid for each in asked if each.uid not in (None, os.getuid()) and each.inode
    }
    if not hidden.keys() <= _found.keys():
        _found.clear()
        _found.update(hidden)
        _found.update((each.inode, each.uid) for each in _read_outside(os.environ))
    return [replace(each, uid=_found.get(each.inode, each.uid)) for each in asked]


def _read_outside(environ: Mapping[str, str]) -> list[Listener]:
    which = manager(environ)
    if which is None:
        return []
    runtime = user_runtime(environ)
    found: list[Listener] = []
    with suppress(OSError, subprocess.TimeoutExpired):
        ended = subprocess.run(
            [
                "systemd-run",
                which,
                "--quiet",
                "--pipe",
                "--wait",
                "--collect",
                "--",
                "/bin/cat",
                *dict(TABLES),
            ],
            env=dict(environ) if runtime is None else dict(environ) | {"XDG_RUNTIME_DIR": runtime},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
        lines = ended.stdout.splitlines()
        # The tables follow each other, each with a header. Addresses of IPv6 are longer.
        found += listening_in(
            "\n".join(["", *(each for each in lines if not _is_ipv6(each))]), socket.AF_INET
        )
        found += listening_in("\n".join(["", *filter(_is_ipv6, lines)]), socket.AF_INET6)
    return found


def _is_ipv6(line: str) -> bool:
    fields = line.split()
    return len(fields) > 1 and len(fields[1].partition(":")[0]) == 32
