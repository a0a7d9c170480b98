"""The report of a reload, which is logged and answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of instances or engines by a reload, by name."""

    added: list[str]
    removed: list[str]
    changed: list[str]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of instances and keys of settings. Those in ``needs_restart`` changed in the file but were not applied."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    settings: list[str]
    needs_restart: list[str]
    address: str  # on which the gateway listens, as before

    def __str__(self) -> str:
        parts = {
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "settings": self.settings,
            "only at the next restart": self.needs_restart,
        }
        return (
            "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names) or "no change"
        )
