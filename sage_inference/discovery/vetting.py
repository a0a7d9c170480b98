"""Checks what a source names, as far as that needs no knowledge of other instances."""

from __future__ import annotations

from dataclasses import replace

from sage_inference.config.address import parse_backend
from sage_inference.config.check import check_ca_file, name_of
from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.formats import check_name
from sage_inference.config.secrets import SecretError
from sage_inference.config.settings import SourceSettings
from sage_inference.discovery.source import Listing, Offered, SourceError
from sage_inference.visible import visible

# Each engine is probed every few seconds. More of them would leave a gateway no time for requests.
MOST_ENGINES = 256
MOST_SENTENCES = 20


def vetted(listing: Listing, source: SourceSettings) -> Listing:
    """``listing`` with only the engines that can be used, and a sentence for each other one. Reads the files of keys.

    Raises ``SourceError`` if none can be used because of the source itself.
    """
    if len(listing.offered) > MOST_ENGINES:
        raise SourceError(
            f"names {len(listing.offered):,} engines; a gateway takes {MOST_ENGINES:,} of a source"
        )
    if source.api_key is not None:
        try:
            source.api_key.reveal()
        except (SecretError, ValueError, RuntimeError) as error:
            raise SourceError(f"the key of the engines (api_key): {error}") from None
    names: set[str] = set()
    addresses: dict[object, str] = {}
    good: list[Offered] = []
    skipped = list(listing.skipped)
    for each in listing.offered:
        problem = _problem(each, names, addresses)
        if problem is None:
            good.append(each)
        else:
            skipped.append(problem)
    return replace(listing, offered=tuple(good), skipped=bounded(skipped))


def bounded(sentences: list[str]) -> tuple[str, ...]:
    """At most ``MOST_SENTENCES`` of them, each on one line and not longer than 300 characters."""
    more = len(sentences) - MOST_SENTENCES
    last = [f"{more:,} more are left out"] if more > 0 else []
    return tuple(visible(each[:300]) for each in [*sentences[:MOST_SENTENCES], *last])


def _problem(offered: Offered, names: set[str], addresses: dict[object, str]) -> str | None:
    """The reason why an engine cannot be used, None if it can. Then its name and its address are taken."""
    settings = offered.settings
    try:
        backend = parse_backend(settings.url)
        name = name_of(settings)
        check_name(name) if settings.name else None
        check_ca_file(settings, f"{name}: ")
        if settings.api_key is not None:
            settings.api_key.reveal()
    except ConfigError as error:
        return error.problem
    except Invalid as error:
        return f"{settings.url}: the name {error.problem}"
    except (SecretError, ValueError, RuntimeError) as error:
        return f"{settings.url}: the key: {error}"
    if name in names:
        return f"{settings.url}: another engine of the list is named {name}"
    twin = addresses.setdefault(backend.identity, name)
    if twin != name:
        return f"{name}: {settings.url} is in the list already, as {twin}"
    names.add(name)
    return None
