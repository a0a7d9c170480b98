"""The engines that keepers of an earlier gateway hold, by what their starts recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.keeper import files


@dataclass(frozen=True, slots=True)
class KeptEngine:
    entry: ManagedEngineSettings
    origin: str  # config, flag or load


def entry_of(directory: Path) -> KeptEngine | None:
    """The engine of a directory whose lock is held. None if nobody holds it, or its record is not ours."""
    try:
        if not files.is_held(str(directory)):
            return None
    except OSError:
        return None
    about = (files.read(str(directory), files.ENGINE) or {}).get("about")
    if not isinstance(about, dict):
        return None
    recorded = about.get("entry")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("model"), str):
        return None
    return KeptEngine(_entry(directory.name, recorded), str(about.get("origin", "config")))


def _entry(name: str, recorded: dict[str, Any]) -> ManagedEngineSettings:
    names = recorded.get("served_names")
    return ManagedEngineSettings(
        model=recorded["model"],
        name=name,
        engine=str(recorded.get("engine", "auto")),
        kind=str(recorded.get("kind", "auto")),
        served_names=tuple(map(str, names)) if isinstance(names, list) else (),
    )
