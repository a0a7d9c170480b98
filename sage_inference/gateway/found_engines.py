"""The engines that were found on this machine. They are the instances of a gateway that has none configured."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from sage_inference.config.check import name_of
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.visible import visible
from sage_inference.wire.isolation import report

SEARCH_S = 5.0  # from one search to the next while nothing can serve

log = logging.getLogger("sage_inference.found")


def is_wanted(settings: Settings) -> bool:
    """Whether engines are searched for: where instances, sources or engines are configured, no others are served."""
    return settings.discover and not (settings.instances or settings.sources or settings.engines)


class FoundEngines:
    """Searches, and keeps what was found. ``notes`` are about servers that look like engines and are not used.

    ``wanted``: whether the gateway searches.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.instances: tuple[InstanceSettings, ...] = ()
        self.notes: tuple[str, ...] = ()
        # Ports and processes of managed engines, which are not found.
        self.ours: Callable[[], tuple[frozenset[int], frozenset[int]]] = lambda: (frozenset(), frozenset())
        self._asked = asyncio.Event()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(map(name_of, self.instances)) if self.wanted else frozenset()

    def look_soon(self) -> None:
        """Search now, also if the gateway can serve."""
        self._asked.set()

    async def keep_looking(
        self, port: int, can_serve: Callable[[], bool], found_more: Callable[[], None]
    ) -> None:
        """Search when asked, and every ``SEARCH_S`` while nothing can serve: an engine may start after its gateway.

        ``port`` is the gateway's. ``found_more`` is called when an engine was found that was not known.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEARCH_S):
                    await self._asked.wait()
            # A search reads all processes, and that would slow down requests under way. So a gateway that serves
            # searches on a reload only.
            if self.wanted and (self._asked.is_set() or not can_serve()):
                try:
                    if await self.look(port) and self.wanted:
                        found_more()
                except Exception as error:  # a lack of threads or descriptors; the next search may have them
                    report(error, "the search for engines")
            self._asked.clear()

    async def look(self, port: int) -> bool:
        """Search once. Returns whether an engine was found that was not known.

        A known one stays where it is not found again: it may be restarting, and costs one probe at a time.
        """
        # Here, because it needs psutil, which a gateway with configured engines does without.
        from sage_inference.engines.search import search

        ports, pids = self.ours()
        findings = await search({port, *ports}, own_pids=pids)
        for note in findings.notes:
            if note not in self.notes:
                log.warning("%s", note)
        self.notes = findings.notes
        known = {each.url for each in self.instances}
        fresh = [each for each in findings.engines if each.url not in known]
        for each in fresh:
            models = ", ".join(visible(card.id) for card in each.detected.models)
            log.info("found an engine at %s, serving %s", each.url, models)
        self.instances += tuple(InstanceSettings(url=each.url) for each in fresh)
        return bool(fresh)
