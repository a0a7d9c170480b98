"""The sources of one gateway: their watches, from the start through reloads to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import label_of
from sage_inference.gateway.fleet import Fleet
from sage_inference.gateway.source_view import SourceView

if TYPE_CHECKING:
    from sage_inference.discovery.watch import SourceWatch

_OFFERED_S = (
    5.0  # the engines of a source that left the configuration serve so long, until others were offered
)


@dataclass(slots=True)
class _Watched:
    settings: SourceSettings
    keys: tuple[str | None, ...]
    watch: SourceWatch
    task: asyncio.Task[None]


class Sources(SourceView):
    """The watches by the labels of their sources. ``folder``: where the last lists are kept, if they are."""

    def __init__(self, fleet: Fleet, folder: Path | None = None) -> None:
        self._fleet = fleet
        self._folder = folder
        self._watched: dict[str, _Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def watches(self) -> list[SourceWatch]:
        return [each.watch for each in self._watched.values()]

    def owner_of(self, name: str) -> str | None:
        return self._fleet.sourced.owner_of(name)

    def node_of(self, name: str) -> str | None:
        return self._fleet.sourced.node_of(name)

    async def begin(self, settings: Sequence[SourceSettings], limit_s: float) -> None:
        """Start the watches. Returns when each has offered a list, or after ``limit_s``."""
        if not settings:
            return
        self.apply(settings)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for watch in self.watches:
                    await watch.offered.wait()

    def apply(self, settings: Sequence[SourceSettings]) -> None:
        """Follow other settings. A source that changed is watched anew; the others offer what they have, unasked."""
        wanted = {label_of(each): each for each in settings}
        for label in [label for label in self._watched if label not in wanted]:
            self._end(label)
        for label, source in wanted.items():
            running = self._watched.get(label)
            if running is None or running.settings != source or running.keys != _keys(source):
                self._watch(label, source, running)
            else:
                running.watch.offer_again()
        self._await_first_lists()

    def _watch(self, label: str, settings: SourceSettings, former: _Watched | None) -> None:
        from sage_inference.discovery.kept import KeptList
        from sage_inference.discovery.sources import source_of
        from sage_inference.discovery.watch import SourceWatch

        if former is not None:
            former.task.cancel()
        watch = SourceWatch(
            settings,
            source_of(settings),
            partial(self._fleet.sourced.offer, label, drain_s=settings.drain_s),
            KeptList(self._folder, settings) if self._folder is not None else None,
            former.watch.last if former is not None else None,
        )
        self._watched[label] = _Watched(settings, _keys(settings), watch, asyncio.create_task(watch.run()))

    def _end(self, label: str) -> None:
        ended = self._watched.pop(label)
        ended.task.cancel()
        self._spawn(self._withdraw(label, ended))

    async def _withdraw(self, label: str, ended: _Watched) -> None:
        """Remove the instances of a source that left. Others may offer the same ones, so these come first."""
        await asyncio.sleep(0)  # the new watches are there then
        with suppress(TimeoutError):
            async with asyncio.timeout(_OFFERED_S):
                for watch in self.watches:
                    await watch.offered.wait()
        if label not in self._watched:
            await self._fleet.sourced.withdraw(label, ended.settings.drain_s)
            await ended.watch.forget()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _await_first_lists(self) -> None:
        """A model that nobody serves may be one of a source that has not answered yet."""
        self._fleet.gateway.registry.awaited = tuple(
            label for label, each in self._watched.items() if each.watch.last.offered is None
        )

    def tick(self) -> None:
        """Has to be called about once a second."""
        if self._watched or self._fleet.sourced.has_any:
            self._await_first_lists()
            self._fleet.sourced.tick()

    async def close(self) -> None:
        """End the watches. The instances stay."""
        tasks = [*(each.task for each in self._watched.values()), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _keys(settings: SourceSettings) -> tuple[str | None, ...]:
    """The keys behind ``file:`` and ``env:``, which can change while the settings stay."""
    found: list[str | None] = []
    for secret in (settings.token, settings.api_key):
        try:
            found.append(None if secret is None else secret.reveal())
        except Exception:  # the look reports it
            found.append(None)
    return tuple(found)
