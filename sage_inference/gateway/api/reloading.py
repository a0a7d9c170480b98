"""Report of a reload, for the log and for its caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Instances by name, settings by key. ``needs_restart`` changed in the file and were not taken over."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    settings: list[str]
    needs_restart: list[str]
    address: str  # where the gateway listens, now as before

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
