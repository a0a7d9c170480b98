"""The names of the tenants, by their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sage_inference.config.settings import NAMELESS, ApiKeySettings


def tenants(keys: Sequence[ApiKeySettings]) -> Iterator[tuple[str, ApiKeySettings]]:
    """Each key with the name of its tenant. Keys of one name are one tenant; a key without a name is one by itself."""
    nameless = 0
    for key in keys:
        name = key.name
        if name == NAMELESS:
            nameless += 1
            name = name if nameless == 1 else f"{NAMELESS}-{nameless}"
        yield name, key
