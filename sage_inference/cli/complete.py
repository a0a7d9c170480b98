"""Completion: the shells' scripts, and the values they offer. Silent on error: a shell is waiting."""

from __future__ import annotations

import os
from collections.abc import Callable

PROGRAMS = ("sage", "sage-inference")


def variable(program: str) -> str:
    return f"_{program}_COMPLETE".replace("-", "_").upper()


def asked(program: str) -> bool:
    """Whether it is a shell that runs us, for words to offer."""
    return variable(program) in os.environ


def prepare(program: str) -> None:
    """Teach Typer the shells, if one asks."""
    if asked(program):
        from typer._completion_classes import completion_init

        completion_init()


def script(shell: str, program: str) -> str:
    """What the shell has to read once."""
    from typer._completion_shared import get_completion_script

    text = get_completion_script(prog_name=program, complete_var=variable(program), shell=shell)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def config_keys(incomplete: str) -> list[str]:
    from sage_inference.config.schema import walk

    return [path for path, key in walk() if path.startswith(incomplete) and not key.shape.section]


def _of(name: str) -> Callable[[str], list[str]]:
    def offer(incomplete: str) -> list[str]:
        from sage_inference.config import settings

        return [word for word in getattr(settings, name) if word.startswith(incomplete)]

    return offer


policies = _of("POLICIES")
log_levels = _of("LOG_LEVELS")


def formats(incomplete: str) -> list[str]:
    return [word for word in ("table", "json", "yaml") if word.startswith(incomplete)]
