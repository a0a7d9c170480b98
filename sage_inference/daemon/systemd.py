"""The text of the systemd units that run the gateway: one for a user's manager, one for the system's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NAME = "sage-inference.service"
_MARGIN_S = (
    45  # after the drain time: managed engines have 15 s to end, and 15 s until they are killed and gone
)

_UNIT = """\
[Unit]
Description=sage-inference, a gateway in front of local inference engines
{after}
[Service]
Type=notify
{who}{environment}ExecStart={command} inference start{options}
ExecReload={command} inference reload
WatchdogSec=30
Restart=on-failure
RestartSec=2
TimeoutStopSec={stop_s}
KillMode=mixed
LimitNOFILE=65536
UMask=0077
{hardening}
[Install]
WantedBy={target}
"""

# Any manager can enforce these. An engine may run inside the unit, where managed.supervisor is plain. So code may be
# made and executed (compilers of kernels), and devices (GPUs), home directories (models) and /tmp (sockets) stay open.
_ALWAYS = {
    "NoNewPrivileges": "yes",
    "LockPersonality": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "~@clock @cpu-emulation @module @mount @obsolete @privileged @raw-io @reboot @swap",
    "SystemCallErrorNumber": "EPERM",
    "KeyringMode": "private",
}

# A user's manager may drop capabilities in a user namespace only, and some systems refuse those to users. Options that
# need a mount namespace are left out: in one, the gateway's name in the kernel would be another (daemon/presence.py).
CONFINED = {
    "PrivateUsers": "yes",
    "CapabilityBoundingSet": "",
    "ProtectHostname": "yes",
}

# ProtectClock and PrivateDevices are missing, because both close the devices of GPUs.
_BY_SYSTEM = {
    "ProtectSystem": "full",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
}
_LOW_PORT = "CAP_NET_BIND_SERVICE"


@dataclass(frozen=True, slots=True)
class Unit:
    """The command of a unit, and its surroundings. ``command`` is the call of ``sage``, with its absolute path first; ``options`` are for start.

    ``environ`` holds variables that the gateway needs, and ``environment_file`` is the file of those with keys. systemd
    waits ``drain_s`` and a margin for its end.
    """

    command: Sequence[str]
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    environment_file: str | None = None
    drain_s: float = 30.0


def user_unit(unit: Unit, *, confined: bool = True) -> str:
    """The unit for a user's manager. ``confined``: whether that can drop capabilities."""
    return _text(
        unit, after="", who="", hardening=_ALWAYS | (CONFINED if confined else {}), target="default.target"
    )


def system_unit(unit: Unit, *, user: str | None, folder: str, low_port: bool = False) -> str:
    """The unit for the system's manager. ``folder`` is the name of its directory in /var/lib.

    Without ``user``, systemd makes up a user that only this service has. ``low_port``: the port is below 1024.
    """
    who = "DynamicUser=yes\n" if user is None else f"User={_escaped(user)}\n"
    capabilities = _LOW_PORT if low_port else ""
    hardening = _ALWAYS | _BY_SYSTEM | {"CapabilityBoundingSet": capabilities}
    if low_port:
        hardening |= {"AmbientCapabilities": capabilities}
    return _text(
        unit,
        after="After=network-online.target\nWants=network-online.target\n",
        who=f"{who}StateDirectory={folder}\nStateDirectoryMode=0700\n",
        hardening=hardening,
        target="multi-user.target",
    )


def _text(unit: Unit, *, after: str, who: str, hardening: Mapping[str, str], target: str) -> str:
    variables = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in unit.environ.items()]
    if unit.environment_file is not None:
        # Not quoted: the whole rest of the line is a pattern of names. The dash allows the file to be missing.
        pattern = re.sub(r"([\\*?\[])", r"\\\1", unit.environment_file)
        variables.append(f"EnvironmentFile=-{_escaped(pattern)}\n")
    return _UNIT.format(
        after=after,
        who=who,
        command=" ".join(map(_word, _callable(unit.command))),
        options="".join(f" {_word(word)}" for word in unit.options),
        environment="".join(variables),
        stop_s=math.ceil(unit.drain_s) + _MARGIN_S,
        hardening="".join(f"{key}={value}\n" for key, value in hardening.items()),
        target=target,
    )


def _callable(command: Sequence[str]) -> Sequence[str]:
    """``command`` by way of a shell, if systemd would refuse its path or misread it: there, ``$$`` stays as it is."""
    if set(command[0]) & set("$'\"\\") or not command[0].isprintable():
        return ["/bin/sh", "-c", 'exec "$0" "$@"', *command]
    return command


def _word(word: str) -> str:
    """A word of a command line, in which systemd expands ``$`` as well."""
    return _quoted(word.replace("$", "$$"))


def _quoted(word: str) -> str:
    word = _escaped(word)
    if word and word.isprintable() and not set(word) & set(" \"'\\;"):
        return word
    return f'"{"".join(map(_in_quotes, word))}"'


def _in_quotes(character: str) -> str:
    if character in '\\"':
        return f"\\{character}"
    return f"\\x{ord(character):02x}" if character < " " or character == "\x7f" else character


def _escaped(word: str) -> str:
    """Systemd expands ``%`` in all these values."""
    return word.replace("%", "%%")
