"""The file of the service's variables, which holds the keys that the configuration names as ``env:NAME``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from sage_inference.daemon.service import unit_file
from sage_inference.daemon.service.manager import ServiceError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_HEAD = """\
# Variables of the service sage-inference, one NAME=value a line: the keys that the configuration takes from env:NAME.
# They apply when the service is restarted. Only you should be able to read this file.
"""


def names_in(path: Path) -> set[str]:
    """The variables that have a value. Raises ``ServiceError``."""
    return {name for name, value in values_in(path).items() if value}


def values_in(path: Path) -> dict[str, str]:
    """The variables with their values, as systemd would set them. Raises ``ServiceError``."""
    found = {}
    for line in (unit_file.read(path) or "").splitlines():
        if assigned := _LINE.fullmatch(line):
            try:
                found[assigned[1]] = " ".join(shlex.split(assigned[2]))
            except ValueError:  # a quote that is not closed
                found[assigned[1]] = assigned[2].strip()
    return found


def create(path: Path, names: Iterable[str], environ: Mapping[str, str]) -> bool:
    """Write a file with the variables of ``names`` that ``environ`` has. One that has variables already stays as it is.

    Returns whether the file was written. Raises ``ServiceError``.
    """
    before, text = unit_file.read(path), _text(names, environ)
    if before is not None and (_has_variables(before) or not _has_variables(text)):
        return False
    unit_file.write(path, text, 0o600, replace=before is not None)
    return True


def remove_unused(path: Path) -> bool:
    """Remove a file without variables. Returns whether one with variables stays."""
    text = unit_file.read(path)
    if text is None:
        return False
    if _has_variables(text):
        return True
    unit_file.remove(path, folders=1)
    return False


def _has_variables(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith(("#", ";")) for line in text.splitlines())


def _text(names: Iterable[str], environ: Mapping[str, str]) -> str:
    lines = [_HEAD]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ServiceError(
                f"env:{name} is no name that systemd takes for a variable",
                "use letters, digits and _, or file:PATH",
            )
        value = environ.get(name)
        lines.append(f"#{name}=\n" if not value else f"{name}={_quoted(value)}\n")
    return "".join(lines)


def _quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'
