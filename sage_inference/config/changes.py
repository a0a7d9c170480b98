"""The difference between two configurations, and the part of it that needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from sage_inference.config.settings import Settings


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """The dotted keys whose values differ, in the schema's order. Instances and engines are compared one by one."""
    return [
        key for key, differs, _ in _compared(old, new, "") if differs and key not in ("instances", "engines")
    ]


def restart_keys(running: Settings, new: Settings) -> list[str]:
    """The keys that a gateway reads only when it starts. Those of TLS are such keys if it begins or ends."""
    keys = [key for key, _, needs_restart in _compared(Settings(), Settings(), "") if needs_restart]
    return [*keys, "server.tls_cert", "server.tls_key"] if _changes_scheme(running, new) else keys


def until_restart(running: Settings, new: Settings) -> Settings:
    """``new``, with the running gateway's values of the keys that need a restart."""
    kept: Settings = _kept(running, new)
    if _changes_scheme(running, new):
        cert, key = running.server.tls_cert, running.server.tls_key
        kept = replace(kept, server=replace(kept.server, tls_cert=cert, tls_key=key))
    return kept


def _changes_scheme(running: Settings, new: Settings) -> bool:
    """Whether callers would have to write ``https://`` in place of ``http://``, or the other way round."""
    return (running.server.tls_cert is None) != (new.server.tls_cert is None)


def _compared(old: Any, new: Any, prefix: str) -> Iterator[tuple[str, bool, bool]]:
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if _is_section(before):
            yield from _compared(before, after, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", before != after, bool(field.metadata.get("restart"))


def _kept(running: Any, new: Any) -> Any:
    values = {}
    for field in fields(new):
        value = getattr(new, field.name)
        if field.metadata.get("restart"):
            values[field.name] = getattr(running, field.name)
        elif _is_section(value):
            values[field.name] = _kept(getattr(running, field.name), value)
    return replace(new, **values)


def _is_section(value: Any) -> bool:
    """Whether the value's fields are settings. A secret's fields are not."""
    return is_dataclass(value) and all("doc" in field.metadata for field in fields(value))
