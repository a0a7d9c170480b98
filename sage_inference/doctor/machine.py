"""Checks of the machine: open files, the clock, GPUs."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding
from sage_inference.engines.managed.gpus import driver_version, gib, gpus

_ENOUGH_FILES = 8192
_FEWEST_FILES = 1024
_QUESTION_S = 1.0
_DAY_S = 86400.0


def open_files(facts: Facts) -> Iterator[Finding]:
    """The gateway raises its soft limit itself."""
    pid = facts.state.value.pid if facts.state.value.state == "running" else None
    limit, whose = _limit_of(pid), "the gateway's"
    if limit is None:
        limit, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[1], "this shell's"
    if limit == resource.RLIM_INFINITY or limit >= _ENOUGH_FILES:
        yield OPEN_FILES.ok(f"{whose} limit is {'none' if limit == resource.RLIM_INFINITY else f'{limit:,}'}")
        return
    finding = OPEN_FILES.fail if limit < _FEWEST_FILES else OPEN_FILES.warn
    yield finding(
        f"{whose} limit of {limit:,} open files allows about {limit // 2:,} requests at the same time",
        "a line '* hard nofile 65536' in /etc/security/limits.conf, and another login",
    )


def _limit_of(pid: int | None) -> int | None:
    """The limit of a running gateway, None where it is not known."""
    if pid is None:
        return None
    try:
        for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
            if line.startswith("Max open files"):
                soft = line.split()[3]
                return resource.RLIM_INFINITY if soft == "unlimited" else int(soft)
    except (OSError, ValueError, IndexError):
        return None
    return None


def clock(facts: Facts) -> Iterator[Finding]:
    """A clock that is behind makes certificates invalid, and logs and usage misleading."""
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed - _DAY_S:
        yield CLOCK.fail(f"it is {time.strftime('%Y-%m-%d')}, before this program was installed", _SET_CLOCK)
    elif _is_synchronized() is False:
        yield CLOCK.warn("no time server sets it", _SET_CLOCK)
    else:
        yield CLOCK.ok(time.strftime("%Y-%m-%d %H:%M %Z"))


def _is_synchronized() -> bool | None:
    """As systemd reports it. None where it does not run, such as in a container."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("timedatectl") is None:
        return None
    try:
        shown = subprocess.run(
            ["timedatectl", "show", "-p", "NTPSynchronized", "--value"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUESTION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(shown.stdout.strip())


def graphics(facts: Facts) -> Iterator[Finding]:
    found = gpus()
    if found:
        yield GPUS.ok(f"NVIDIA driver {driver_version()}")
        for gpu in found:
            yield GPUS.ok(f"{gpu.index}: {gpu.name}, {gib(gpu.free)} of {gib(gpu.total)} free")
    elif Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists():
        yield GPUS.fail(
            "there is an NVIDIA GPU, and its driver does not answer", "nvidia-smi shows the reason"
        )
    elif any(_is_nvidia(device) for device in Path("/sys/bus/pci/devices").glob("*")):
        yield GPUS.warn("there is an NVIDIA GPU without its driver", "install NVIDIA's driver of your system")
    else:
        yield GPUS.ok("no NVIDIA GPU")


def _is_nvidia(device: Path) -> bool:
    """Whether a device of the PCI bus is a display controller of NVIDIA."""
    try:
        vendor = (device / "vendor").read_text(encoding="ascii").strip()
        kind = (device / "class").read_text(encoding="ascii").strip()
    except OSError:
        return False
    return vendor == "0x10de" and kind.startswith("0x03")


_SET_CLOCK = "sudo timedatectl set-ntp true"
OPEN_FILES = Check("open files", open_files)
CLOCK = Check("clock", clock)
GPUS = Check("gpus", graphics)
