"""The unit of systemd that a running gateway belongs to."""

from __future__ import annotations

from pathlib import Path

from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.systemd import NAME
from sage_inference.keeper.own_unit import unit_of


def restart_command(info: PidInfo) -> str | None:
    """The command that replaces a running gateway. None if another supervisor than systemd does that."""
    if not info.supervised:
        return "sage inference restart"
    unit = _unit(info.pid)
    return f"{systemctl(unit[1])} restart {unit[0].removesuffix('.service')}" if unit else None


def is_of_the_system(pid: int) -> bool:
    """Whether the process belongs to the gateway's service of the whole system."""
    return _unit(pid) == (NAME, "--system")


def systemctl(which: str) -> str:
    """The start of a command for that manager, as a person types it."""
    return "systemctl --user" if which == "--user" else "sudo systemctl"


def _unit(pid: int) -> tuple[str, str] | None:
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return unit_of(cgroups, is_user=False)
