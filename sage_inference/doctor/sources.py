"""The check of the sources that name engines of other machines. Without sources there is nothing to check."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import kind_of, label_of
from sage_inference.discovery.source import Source, SourceError
from sage_inference.discovery.sources import source_of
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding

_LOOK_S, _REMARK_S = 1.4, 0.4
_MOST_SKIPPED = 5
_HINTS = {
    "ray": "ray status on Ray's head; sage inference config edit corrects its address (sources)",
    "file": "sage inference config edit corrects its path (sources)",
    "dns": "getent ahosts NAME; sage inference config edit corrects the name (sources)",
}
_ENTRY = "sage inference status shows all of them; the source's own entry, or its engine, has to be mended"
_HEAD = (
    "; they end a minute after Ray's head ends, unless it keeps its state in Redis"
    " (RAY_REDIS_ADDRESS=HOST:PORT where ray start --head runs)"
)


def sources(facts: Facts) -> Iterator[Finding]:
    state = facts.state.value
    if state.live is not None:
        for each in state.live.get("sources") or ():
            yield from _of_watched(each)
        return
    yield from asyncio.run(_of_all(facts.settings.value.sources))


def _of_watched(source: Mapping[str, Any]) -> Iterator[Finding]:
    """The state of a source of the running gateway, which asks it every few seconds."""
    label = f"{source['kind']} {source['address']}"
    if source["state"] != "ok":
        yield SOURCES.warn(f"{label} is {source['state']}: {source['last_error']}", _HINTS[source["kind"]])
    else:
        yield from _of_list(label, source["instances"], source["skipped"])


async def _of_all(settings: Sequence[SourceSettings]) -> list[Finding]:
    return [each for found in await asyncio.gather(*map(_of_one, settings)) for each in found]


async def _of_one(settings: SourceSettings) -> list[Finding]:
    label, hint = label_of(settings), _HINTS[kind_of(settings)]
    source = source_of(settings)
    try:
        async with asyncio.timeout(_LOOK_S):
            listing = await source.look()
        remark = await _remark(source)
    except SourceError as error:
        return [SOURCES.warn(f"{label}: {error}", hint)]
    except TimeoutError:
        return [SOURCES.warn(f"{label} does not answer within {_LOOK_S:g} s; a gateway waits longer", hint)]
    finally:
        await source.aclose()
    return list(_of_list(label, len(listing.offered), listing.skipped, remark))


async def _remark(source: Source) -> str:
    """A remark on a cluster that is sound, and common: it belongs to the finding and is no warning."""
    from sage_inference.discovery.ray import RaySource
    from sage_inference.discovery.ray_head import ends_with_head

    with suppress(TimeoutError):
        async with asyncio.timeout(_REMARK_S):
            if isinstance(source, RaySource) and await ends_with_head(source.dashboard):
                return _HEAD
    return ""


def _of_list(label: str, engines: int, skipped: Sequence[str], remark: str = "") -> Iterator[Finding]:
    for sentence in skipped[:_MOST_SKIPPED]:
        yield SOURCES.warn(f"{label}: {sentence}", _ENTRY)
    if engines:
        yield SOURCES.ok(f"{label} names {engines} engine{'' if engines == 1 else 's'}{remark}")
    elif not skipped:
        yield SOURCES.warn(f"{label} names no engine", "start an engine there, or wait until one is up")


SOURCES = Check("sources", sources)
