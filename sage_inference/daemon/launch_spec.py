"""The specification of a background process. A pipe carries it, because all users can read command lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sage_inference.config.paths import Paths
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import Flags
from sage_inference.daemon.predecessor import Predecessor
from sage_inference.daemon.process import Process


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """``relieves`` is the gateway whose place the process takes when it is ready to serve."""

    paths: Paths
    flags: Flags
    config_required: bool = False
    relieves: Predecessor | None = None

    def to_json(self) -> bytes:
        places = {field.name: str(getattr(self.paths, field.name)) for field in fields(Paths)}
        relieves = None if self.relieves is None else asdict(self.relieves)
        document = {
            "paths": places,
            "flags": asdict(self.flags),
            "config_required": self.config_required,
            "relieves": relieves,
        }
        return json.dumps(document).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> LaunchSpec:
        """Raises ``ValueError`` for text that ``to_json`` does not produce."""
        try:
            document = json.loads(raw)
            paths = Paths(**{name: Path(place) for name, place in document["paths"].items()})
            relieves = document["relieves"]
            if relieves is not None:
                relieves = Predecessor(**{**relieves, "process": Process(**relieves["process"])})
            return cls(paths, flags_from(document["flags"]), bool(document["config_required"]), relieves)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a launch spec: {error}") from None


def flags_from(document: Mapping[str, Any]) -> Flags:
    """Flags from decoded JSON. Names that this version does not know are ignored."""
    known = {field.name for field in fields(Flags)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in document.items()
        if name in known
    }
    return Flags(**values)


def recordable(flags: Flags) -> dict[str, Any]:
    """The flags as the pidfile may have them: without a literal key."""
    document = asdict(flags)
    if has_literal_key(flags):
        document["api_key"] = None
    return document


def has_literal_key(flags: Flags) -> bool:
    return flags.api_key is not None and Secret(flags.api_key).is_literal
