"""The folders of a machine's engines, and the ports that its replicas have taken."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

from sage_inference.config.sizes import port_range
from sage_inference.keeper import files

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 100
_KEPT_S = 7 * 86400.0  # how long the log of an ended engine stays
# A TEI takes a second port for its metrics.
_PORTS_OF_ONE = 2


class FolderError(Exception):
    """The folder of the engines cannot be used, or no port is free."""


def root_folder() -> Path:
    """The folder of this user's engines on this machine. Raises ``FolderError``.

    It is on the machine's own disk: a home directory may be shared by all machines, and locks would be too.
    """
    root = Path(tempfile.gettempdir()) / f"sage-inference-cluster-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
    except OSError as error:
        raise FolderError(f"folder {root} cannot be made: {error.strerror}") from None
    # Any user may make a folder in /tmp before this one does.
    if found.st_uid != os.getuid() or not root.is_dir() or root.is_symlink():
        raise FolderError(f"folder {root} belongs to another user; remove it")
    return root


def folder_of(root: Path, application: str, replica: str) -> Path:
    """The private folder of a replica's engine."""
    return root / _UNUSUAL.sub("_", f"{application}.{replica}")[-_LONGEST:]


def sweep(root: Path, now: float) -> None:
    """Remove the folders of engines that ended long ago. ``now`` is the time of day in seconds."""
    for each in root.iterdir():
        with contextlib.suppress(OSError):
            lock = each / files.LOCK
            if lock.exists() and now - each.stat().st_mtime > _KEPT_S and not files.is_held(str(each)):
                shutil.rmtree(each, ignore_errors=True)


class PortLease:
    """Two neighbouring ports that no other replica of this machine chooses, as long as this process lives.

    An engine binds its port half a minute after its start. Until then only this lock shows that it is taken.
    """

    def __init__(self, root: Path, ports: str, *, skip: frozenset[int] = frozenset()) -> None:
        """Raises ``FolderError`` if no pair is left besides those of ``skip``."""
        wanted = port_range(ports)
        firsts = [port for port in wanted[::_PORTS_OF_ONE] if port not in skip]
        # Replicas that start together would otherwise try the same ones in the same order.
        random.shuffle(firsts)
        for first in firsts:
            descriptor = os.open(root / f"port-{first}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self.first = first
            self.range = f"{first}-{min(first + _PORTS_OF_ONE - 1, wanted[-1])}"
            self._descriptor: int | None = descriptor
            return
        raise FolderError(f"no port of {ports} is free; set ports in the file of cluster up")

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def touch(folder: Path) -> None:
    """Note that the engine of this folder ends now."""
    with contextlib.suppress(OSError):
        os.utime(folder, (time.time(), time.time()))
