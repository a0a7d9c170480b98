"""Facts that the first answer of an engine's last start showed, kept for the gateways that adopt the engine."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

_FILE = "learned.json"


@dataclass(frozen=True, slots=True)
class LearnedFacts:
    """``start_s``: the seconds until that answer, which came ``at`` this time of the wall clock."""

    start_s: float | None = None
    at: float = 0.0
    lacks_chat_template: bool = False

    def of(self, started_at: float) -> LearnedFacts | None:
        """These facts, if they are of the engine that was started then. None if that has not been ready yet."""
        return self if self.at > started_at else None


def read(directory: Path) -> LearnedFacts:
    try:
        document = json.loads((directory / _FILE).read_text("utf-8"))
        start_s, at = float(document["start_s"]), float(document["at"])
        return LearnedFacts(start_s, at, document.get("lacks_chat_template") is True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return LearnedFacts()


def write(directory: Path, learned: LearnedFacts) -> None:
    document = {
        "start_s": None if learned.start_s is None else round(learned.start_s, 1),
        "at": learned.at,
        "lacks_chat_template": learned.lacks_chat_template,
    }
    with contextlib.suppress(OSError):  # a full disk costs the facts only
        (directory / _FILE).write_text(json.dumps(document), "utf-8")
