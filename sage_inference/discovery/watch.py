"""Looks at one source again and again, and offers its engines to the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import label_of
from sage_inference.discovery.kept import KeptList
from sage_inference.discovery.last_list import LastList
from sage_inference.discovery.source import Listing, Offered, Source, SourceError
from sage_inference.discovery.threads import BlockingCall
from sage_inference.discovery.vetting import bounded, vetted
from sage_inference.visible import visible
from sage_inference.wire.isolation import report

LOOK_S = 30.0  # the longest look
FIRST_S = 0.5  # a start waits so long for the first look, before it uses the list on disk

log = logging.getLogger("sage_inference.discovery")

# Takes the engines that the source names now. Returns a sentence for each that cannot be an instance.
Offer = Callable[[Sequence[Offered]], Awaitable[Sequence[str]]]


class SourceWatch:
    """The watch over one source.

    ``kept`` is its list on disk, if the gateway keeps one. ``last`` is the list of a watch that this one replaces.
    ``offered`` is set when the first list was offered, or when a start need not wait for it any longer.
    """

    def __init__(
        self,
        settings: SourceSettings,
        source: Source,
        offer: Offer,
        kept: KeptList | None = None,
        last: LastList | None = None,
    ) -> None:
        self.settings = settings
        self.label = label_of(settings)
        self.last = last or LastList()
        self.offered = asyncio.Event()
        self.looks = 0
        self.failures = 0
        self.last_error: str | None = None
        self.engines = 0  # of the last list, without those that could not be instances
        self._source = source
        self._offer = offer
        self._kept = kept
        self._disk = BlockingCall("the list on disk")
        self._vetting = BlockingCall("the check of the list")
        self._answered_at: float | None = None
        self._seen: Listing | None = None  # the last answer, as it came
        self._checked = Listing(())  # what is usable of it
        self._refused: tuple[str, ...] = ()  # by the gateway
        self._was_offered = False
        self._offering = asyncio.Lock()
        self._again = asyncio.Event()

    # Facts

    @property
    def age_s(self) -> float | None:
        """Seconds since the source last answered; None if it has not answered this gateway."""
        return None if self._answered_at is None else time.monotonic() - self._answered_at

    @property
    def state(self) -> str:
        """``ok``, ``stale`` while an earlier list holds, or ``failed`` where there never was one."""
        if self.last_error is None and self._answered_at is not None:
            return "ok"
        return "failed" if self.last.offered is None else "stale"

    @property
    def skipped(self) -> tuple[str, ...]:
        """A sentence for each entry of the list that is no instance."""
        return bounded([*self._checked.skipped, *self._refused])

    # The watch

    def offer_again(self) -> None:
        """Offer the same list once more, because the gateway's other instances changed. The source is not asked."""
        self._again.set()

    async def run(self) -> None:
        """Look until cancelled."""
        first = asyncio.create_task(self._begin())
        try:
            # A start that finds the source slow or silent goes on with the list of the last run.
            await asyncio.wait({first}, timeout=FIRST_S)
            if not self._was_offered and self.last.offered:
                log.warning("%s is silent: its %d last engines are used", self.label, len(self.last.offered))
                await self._offer_list()
            self.offered.set()
            await first
            while True:
                await self._rest()
                await self._look()
        finally:
            first.cancel()
            with contextlib.suppress(Exception):
                await self._source.aclose()

    async def _begin(self) -> None:
        if self._kept is not None and self.last.offered is None:
            with contextlib.suppress(SourceError):
                self.last.offered = await self._disk.of(self._kept.read)
        await self._look()

    async def _rest(self) -> None:
        deadline = time.monotonic() + self.settings.interval_s
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._again.wait()
            if self._again.is_set():
                self._again.clear()
                await self._offer_list()

    async def _look(self) -> None:
        """Look once, and apply the answer. Raises nothing."""
        self.looks += 1
        try:
            async with asyncio.timeout(LOOK_S):
                listing = await self._source.look()
                checked: Listing | None = None
                if listing != self._seen:
                    checked = await self._vetting.of(lambda: vetted(listing, self.settings))
        except SourceError as error:
            self._failed(str(error))
        except TimeoutError:
            self._failed(f"gave no answer within {LOOK_S:g} s")
        except Exception as error:
            report(error, f"the look at {self.label}")
            self._failed("the look failed; the log has the cause")
        else:
            await self._answered(listing, checked)

    def _failed(self, why: str) -> None:
        self.failures += 1
        self.last.failed()
        is_news = self.last_error is None
        self.last_error = visible(why[:500])
        if is_news:
            held = "its last list holds" if self.last.offered is not None else "it has given no list yet"
            log.warning("%s: %s; %s", self.label, self.last_error, held)

    async def _answered(self, listing: Listing, checked: Listing | None) -> None:
        if self.last_error is not None:
            log.info("%s answers again", self.label)
        self.last_error = None
        self._answered_at = time.monotonic()
        if checked is not None:
            if checked.skipped and checked.skipped != self._checked.skipped:
                log.warning("%s: left out: %s", self.label, "; ".join(checked.skipped[:3]))
            self._seen, self._checked = listing, checked
        changed = self.last.take(self._checked)
        # An address that was refused may be free by now.
        if changed or self._refused or not self._was_offered:
            await self._offer_list()
        if changed:
            await self._keep()

    async def _offer_list(self) -> None:
        async with self._offering:
            offered = self.last.offered
            if offered is None:
                return
            try:
                self._refused = tuple(await self._offer(offered))
            except Exception as error:  # the list holds, and is offered again when it changes
                report(error, f"the engines of {self.label}")
                return
            self._was_offered = True
            self.engines = len(offered) - len(self._refused)

    async def _keep(self) -> None:
        kept, offered = self._kept, self.last.offered
        if kept is None or offered is None:
            return
        try:
            await self._disk.of(lambda: kept.write(offered))
        except (OSError, SourceError) as error:
            log.warning("%s: its list cannot be kept on disk: %s", self.label, error)

    async def forget(self) -> None:
        """Remove the list on disk, because the source left the configuration."""
        if self._kept is not None:
            with contextlib.suppress(OSError, SourceError):
                await self._disk.of(self._kept.remove)

    def document(self) -> dict[str, Any]:
        """The state as ``status`` shows it."""
        age = self.age_s
        return {
            "kind": self._source.kind,
            "address": self._source.address,
            "state": self.state,
            "age_s": None if age is None else round(age, 1),
            "instances": self.engines,
            "nodes": len({each.node for each in self.last.offered or () if each.node is not None}) or None,
            "skipped": list(self.skipped),
            "last_error": self.last_error,
        }
