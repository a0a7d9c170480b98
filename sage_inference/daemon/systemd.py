"""The systemd user unit that runs the gateway. ``sage inference unit`` prints it, and docs/operations.md shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

NAME = "sage-inference.service"
_MARGIN_S = (
    45  # after the drain time: managed engines have 15 s to end, and 15 s until they are killed and gone
)

# Only options that an unprivileged user manager can enforce. File system sandboxing needs more rights.
_UNIT = """\
[Unit]
Description=sage-inference, a gateway in front of local inference engines

[Service]
Type=notify
{environment}ExecStart={command} inference start{options}
ExecReload={command} inference reload
WatchdogSec=30
Restart=on-failure
RestartSec=2
TimeoutStopSec={stop_s}
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


def unit(
    command: Sequence[str],
    options: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    drain_s: float = 30.0,
) -> str:
    """The unit's text. ``command`` is the call of ``sage``, with its absolute path first; ``options`` are for start.

    ``environ`` holds variables that the gateway needs. systemd waits ``drain_s`` and a margin for its end.
    """
    variables = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in (environ or {}).items()]
    return _UNIT.format(
        command=" ".join(map(_word, command)),
        options="".join(f" {_word(word)}" for word in options),
        environment="".join(variables),
        stop_s=math.ceil(drain_s) + _MARGIN_S,
    )


def _word(word: str) -> str:
    """A word of a command line, in which systemd expands ``$`` as well."""
    return _quoted(word.replace("$", "$$"))


def _quoted(word: str) -> str:
    word = word.replace("%", "%%")
    if word and not set(word) & set(" \t\n\"'\\;"):
        return word
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        word = word.replace(character, escaped)
    return f'"{word}"'
