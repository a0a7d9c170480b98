"""The transient systemd service of a keeper. It outlives the unit of the gateway, whose children systemd kills."""

from __future__ import annotations

import os
import re
import resource
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from sage_inference.keeper.errors import KeeperError

_TIMEOUT_S = 10.0
_MARGIN_S = 15.0  # after the engine's grace
_UNIT_CHARACTERS = re.compile(r"[^A-Za-z0-9:_.-]")
# The interpreter itself may need these. The engine gets its environment from the spec, and the gateway's may have secrets.
PASSED_ON = ("LD_LIBRARY_PATH", "LANG", "LC_ALL")


def manager(environ: Mapping[str, str], cgroup: str | None = None) -> str | None:
    """``--user`` or ``--system``: the manager that can start the keeper. None if this process is no unit's, or there
    is no manager that obeys this user.
    """
    if not environ.get("INVOCATION_ID") or shutil.which("systemd-run", path=environ.get("PATH")) is None:
        return None
    if user_runtime(environ) is not None:
        return "--user"
    if os.geteuid() == 0 and os.path.isdir("/run/systemd/system"):
        return "--system"
    return None


def user_runtime(environ: Mapping[str, str]) -> str | None:
    """The runtime directory of the user's manager. A system service has no XDG_RUNTIME_DIR, and its user may linger."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return runtime if os.path.exists(os.path.join(runtime, "systemd", "private")) else None


def unit_name(name: str) -> str:
    """A name that no other unit has. systemd keeps a unit's name for a moment after its end."""
    return f"sage-inference-{_UNIT_CHARACTERS.sub('-', name)[:100]}-{secrets.token_hex(4)}.service"


def arguments(
    command: Sequence[str], *, which: str, name: str, grace_s: float, environ: Mapping[str, str]
) -> list[str]:
    """The call of ``systemd-run`` that starts ``command``. It holds no secret.

    ``KillMode=mixed`` sends SIGTERM to the guard alone, which passes it on; the engine gets it once. The resource limits
    of a manager are lower than those of a session, and engines open many files.
    """
    limit = ":".join(map(_limit, resource.getrlimit(resource.RLIMIT_NOFILE)))
    properties = {
        "Type": "exec",
        "KillMode": "mixed",
        "TimeoutStopSec": f"{grace_s + _MARGIN_S:g}",
        "LimitNOFILE": limit,
        "UMask": "0077",
    }
    return [
        "systemd-run",
        which,
        "--quiet",
        "--collect",
        f"--unit={unit_name(name)}",
        f"--description=sage-inference: engine {_one_line(name)}",
        *(f"--property={key}={value}" for key, value in properties.items()),
        *(f"--setenv={key}={environ[key]}" for key in PASSED_ON if key in environ),
        "--",
        *(word.replace("$", "$$") for word in command),
    ]


def run(call: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start the unit. Raises ``KeeperError``."""
    runtime = user_runtime(environ)
    try:
        ended = subprocess.run(
            call,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd="/",
            env=dict(environ) if runtime is None else dict(environ) | {"XDG_RUNTIME_DIR": runtime},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeeperError(f"systemd-run failed: {error}", _HINT) from None
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise KeeperError(f"systemd-run failed with status {ended.returncode}: {last}", _HINT)


_HINT = "managed.supervisor: plain starts engines without systemd"


def _limit(value: int) -> str:
    return "infinity" if value == resource.RLIM_INFINITY else str(value)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
