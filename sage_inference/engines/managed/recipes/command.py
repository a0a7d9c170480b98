"""Any program: the command line of the settings, with its words in braces replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sage_inference.engines.managed.ports import free_port
from sage_inference.engines.managed.recipes.base import Command, Start
from sage_inference.netloc import origin


def command(start: Start) -> Command:
    """The configured command. Raises ``LaunchError`` if no port is free."""
    port = free_port(start.ports, start.taken)
    words = words_of(start, port)
    argv = (*start.program.argv, *start.engine.command[1:], *start.engine.args)
    return Command(tuple(filled(argv, words)), origin(start.host, port))


def words_of(start: Start, port: int) -> dict[str, str]:
    gpus = start.placement.gpus
    return {
        "host": start.host,
        "port": str(port),
        "model": start.model,
        "name": start.name,
        "gpus": ",".join(str(gpu.index) for gpu in gpus),
        "gpu_uuids": ",".join(gpu.uuid for gpu in gpus),
    }


def filled(argv: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """``argv`` with the known words in braces replaced. Other braces stay, because arguments may be JSON."""
    pattern = re.compile("{(" + "|".join(words) + ")}")
    return [pattern.sub(lambda found: words[found[1]], arg) for arg in argv]
