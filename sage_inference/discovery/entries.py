"""The settings of an engine that a source names: its own keys, and those of the source."""

from __future__ import annotations

from dataclasses import replace

from sage_inference.config.settings import InstanceSettings, SourceSettings

_PLAIN = InstanceSettings(url="")


def entry_of(source: SourceSettings, url: str, name: str | None = None) -> InstanceSettings:
    """The settings of an engine of which the source names only the address, and perhaps a name."""
    return with_keys_of(source, InstanceSettings(url=url, name=name))


def with_keys_of(source: SourceSettings, entry: InstanceSettings) -> InstanceSettings:
    """``entry``, with the keys of the source where it has none of its own."""
    return replace(
        entry,
        kind=source.kind if entry.kind == _PLAIN.kind else entry.kind,
        engine=source.engine if entry.engine == _PLAIN.engine else entry.engine,
        model=entry.model or source.model,
        api_key=entry.api_key or source.api_key,
        max_concurrent_requests=entry.max_concurrent_requests or source.max_concurrent_requests,
        max_batched_tokens=entry.max_batched_tokens or source.max_batched_tokens,
        kv_cache_tokens=entry.kv_cache_tokens or source.kv_cache_tokens,
    )
