"""The answers of a source, and its interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sage_inference.config.settings import InstanceSettings


@dataclass(frozen=True, slots=True)
class Offered:
    """An engine that a source names. ``node`` is the machine that it runs on, as the source names that.

    ``settings`` are complete: the address, a name, and the keys of the source that hold for each of its engines.
    """

    settings: InstanceSettings
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One answer of a source.

    ``skipped`` has a sentence for each entry that cannot be used. ``settled`` is False while an engine that is missing
    from ``offered`` need not be gone, for example because a Ray application is not RUNNING.
    """

    offered: tuple[Offered, ...]
    skipped: tuple[str, ...] = ()
    settled: bool = True


class SourceError(Exception):
    """A source gives no list. The message is for ``status`` and the log, and has no secrets."""


class Source(Protocol):
    """One place that names engines. ``kind`` is ``ray``, ``file`` or ``dns``; ``address`` is what ``status`` shows."""

    @property
    def kind(self) -> str: ...

    @property
    def address(self) -> str: ...

    async def look(self) -> Listing:
        """The engines that the source names now. May take 30 s, and never blocks the loop. Raises ``SourceError``."""

    async def aclose(self) -> None:
        """Close what the looks keep open."""
