"""The bytes of a download, by the files that grow in the hub's cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_GB = 1e9
_PART = ".incomplete"


@dataclass(slots=True)
class Download:
    """A download into ``folder``, which holds the files of one model. ``files`` has the sizes of those that are needed,
    by the names under which the cache keeps them. ``size`` is their sum, 0 if unknown.
    """

    folder: Path
    files: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    done: int = 0
    _seen: dict[str, int] | None = None
    _dead: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Download | None:
        """The download that a launch describes; None if the model is on this machine."""
        found = about.get("download")
        if not isinstance(found, dict) or not found.get("folder"):
            return None
        files = {str(name): int(size) for name, size in dict(found.get("files") or {}).items()}
        return cls(Path(str(found["folder"])), files, sum(files.values()))

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.size) if self.size else None

    @property
    def detail(self) -> str:
        done = f"{self.done / _GB:.1f}"
        return f"{done} of {self.size / _GB:.1f} GB" if self.size else f"{done} GB"

    def look(self) -> bool:
        """Whether bytes arrived since the last look. The first look has nothing to compare with."""
        before, now = self._seen, self._sizes()
        self._seen = now
        if before is None:
            # Parts that a killed download left are never used again, unless they grow.
            self._dead = {name: size for name, size in now.items() if _PART in name}
        alive = {name: size for name, size in now.items() if self._dead.get(name) != size}
        if self.files:
            self.done = self._arrived(alive)
        if before is None:
            return False
        grown = sum(
            max(0, size - before.get(name, 0)) for name, size in alive.items() if not _renamed(name, before)
        )
        if not self.files:
            self.done += grown
        return grown > 0

    def _arrived(self, alive: Mapping[str, int]) -> int:
        """The bytes of the needed files. Of several parts of one file, the largest counts."""
        parts = dict.fromkeys(self.files, 0)
        for name, size in alive.items():
            key = name.partition(".")[0]
            if key in parts:
                parts[key] = max(parts[key], min(size, self.files[key]))
        return sum(parts.values())

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        try:
            for entry in (self.folder / "blobs").iterdir():
                # Blocks, not length: a program may set the whole length before it has the bytes.
                state = entry.stat()
                sizes[entry.name] = (
                    min(state.st_size, state.st_blocks * 512) if _PART in entry.name else state.st_size
                )
        except OSError:
            pass
        return sizes


def _renamed(name: str, before: Mapping[str, int]) -> bool:
    """Whether a complete file had parts before: its bytes have been counted."""
    return name not in before and any(part.startswith(f"{name}.") for part in before)
