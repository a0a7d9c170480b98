"""The systemd user unit that runs the gateway."""

from __future__ import annotations

from collections.abc import Sequence

NAME = "sage-inference.service"

# Only options that an unprivileged user manager can enforce. File system sandboxing needs more rights.
_UNIT = """\
[Unit]
Description=sage-inference, a gateway in front of local inference engines
After=network.target

[Service]
Type=notify
ExecStart={command} inference start
ExecReload={command} inference reload
WatchdogSec=30
Restart=on-failure
RestartSec=2
TimeoutStopSec=45
KillMode=mixed
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def unit(command: Sequence[str]) -> str:
    """The unit's text. ``command`` is the call of ``sage``, with its absolute path first."""
    return _UNIT.format(command=" ".join(_quoted(word) for word in command))


def _quoted(word: str) -> str:
    # systemd expands % and $ in command lines.
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
