"""Facts and calls of Linux that Python's library does not have: subreapers, start times, process trees."""

from __future__ import annotations

import ctypes
import os

_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36


def boot_id() -> str:
    """The identity of this boot. Pids and start times of another boot mean nothing."""
    return _text("/proc/sys/kernel/random/boot_id").strip()


def start_ticks(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot. None for a zombie or a free pid."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def parent(pid: int) -> int | None:
    """The pid of its parent. None for a free pid."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def tree(root: int) -> list[int]:
    """The living descendants of ``root``, parents first. Other processes may come and go meanwhile."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat(int(name))) is not None and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def own_children() -> list[int]:
    """This process's children, zombies included. It must have one thread only.

    The kernel may leave out some while others come and go, so look again as long as ``waitpid`` finds children.
    """
    me = os.getpid()
    try:
        return [int(pid) for pid in _text(f"/proc/{me}/task/{me}/children").split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [
            int(name)
            for name in os.listdir("/proc")
            if name.isdecimal() and (fields := _stat(int(name))) is not None and int(fields[1]) == me
        ]


def command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def become_subreaper() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def signal_at_parents_death(number: int) -> None:
    """Get a signal when the parent's thread ends. A fork's child does not inherit this."""
    _prctl(_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """The short name in ``ps`` and ``top``, of at most 15 bytes."""
    _libc.prctl(_SET_NAME, name.encode(), 0, 0, 0)


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    unsigned = ctypes.c_ulong
    if _libc.prctl(option, unsigned(value), unsigned(0), unsigned(0), unsigned(0)):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option} is refused: {os.strerror(number)}")


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the third on (its state). None for a free pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may have spaces and brackets itself.
    return raw[raw.rindex(b")") + 2 :].decode("ascii").split()


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
