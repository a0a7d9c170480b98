"""The kinds and names of sources, and the rules between their keys."""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.config.errors import ConfigError
from sage_inference.config.instance_settings import SourceSettings

KINDS = ("ray", "file", "dns")


def kind_of(source: SourceSettings) -> str:
    """``ray``, ``file`` or ``dns``."""
    return next(kind for kind in KINDS if getattr(source, kind) is not None)


def place_of(source: SourceSettings) -> str:
    """The place that is looked at, and the application there: ``http://head:8265 sage-engines``."""
    place = str(getattr(source, kind_of(source)))
    return f"{place} {source.application}" if source.ray is not None else place


def label_of(source: SourceSettings) -> str:
    """The name of a source in status, metrics and logs. No two sources of a configuration have the same."""
    return f"{kind_of(source)} {place_of(source)}"


def check_sources(sources: Sequence[SourceSettings]) -> None:
    """Raises ``ConfigError`` for the first broken rule."""
    first: dict[str, int] = {}
    for at, source in enumerate(sources):
        here = f"sources[{at}]"
        if all(getattr(source, kind) is None for kind in KINDS):
            raise ConfigError(f"{here} has none of {', '.join(KINDS)}", key=here, hint="set one of them")
        kind = kind_of(source)
        if source.token is not None and kind != "ray":
            raise ConfigError(
                f"{here}.token is for ray, and {here} has {kind}",
                key=f"{here}.token",
                hint="remove it; the key of the engines is api_key",
            )
        twin = first.setdefault(label_of(source), at)
        if twin != at:
            raise ConfigError(
                f"{here} and sources[{twin}] are the same: {label_of(source)}", key=here, hint="remove one"
            )
