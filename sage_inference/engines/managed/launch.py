"""The launch of one engine, and the reasons for which there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class LaunchError(Exception):
    """An engine cannot be started as its settings are. The message is one sentence, ``hint`` mends it.

    ``waits_for_memory``: the start can succeed later, when memory is free.
    """

    def __init__(self, message: str, hint: str | None = None, *, waits_for_memory: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.waits_for_memory = waits_for_memory


class NotInstalledError(LaunchError):
    """The program of an engine is not on this machine."""


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """All that a keeper needs to start one engine.

    ``url`` is ``http://127.0.0.1:PORT`` or ``unix:/path``. ``secrets`` are texts that no log and no answer may show.
    ``about`` has no secret. ``spec_hash`` changes with the settings and the program, not with a port or free memory.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    url: str
    api_key: str | None = field(repr=False)
    spec_hash: str
    secrets: tuple[str, ...] = field(repr=False)
    about: dict[str, Any]
    recipe: str
    version: str | None
    stop_command: tuple[str, ...] = ()
