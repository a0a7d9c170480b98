"""Writes the tally of ended requests into the usage store, some seconds later and off the event loop.

A crash loses the requests of the last ``WRITES_S`` seconds. A store that cannot be written loses nothing while the
gateway runs: the rows wait, and the log has one line.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sage_inference.config.settings import UsageSettings
from sage_inference.telemetry.tally import OTHER, Counts, Key, RequestTally
from sage_inference.usage.columns import HOUR_S, Labels, Row, UsageError

WRITES_S = 5.0
MOST_USERS = 10_000  # an hour, by key; later ones are stored under OTHER
MOST_WAITING = (
    20_000  # rows that wait for a store that cannot be written; more are stored without their users
)
_DAY_H = 24

log = logging.getLogger("sage_inference.usage")


class UsageMeter:
    """``usage.days``: how long usage is kept; 0 turns it off."""

    def __init__(
        self, tally: RequestTally, path: Path, usage: UsageSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._tally = tally
        self._clock = clock
        self._before: dict[Key, Counts] = {}
        self._waiting: dict[Labels, list[float]] = {}
        self._users: set[tuple[str, str]] = set()
        self._hour = int(clock() // HOUR_S)
        self._written_at = -WRITES_S
        self._forgot_at = -1
        self._writing = asyncio.Lock()
        self._fails = False
        self.days = 0
        self.configure(usage)

    def configure(self, usage: UsageSettings) -> None:
        days = usage.days
        if not days or not self.days:
            self._tally.take_users()
            self._before = {kind: counts.copy() for kind, counts in self._tally.series.items()}
        self.days = days
        self._tally.follows_users = days > 0 and usage.users

    async def tick(self) -> None:
        """Write, if it is time. Has to be called about once a second."""
        if not self.days:
            return
        now = self._clock()
        if int(now // HOUR_S) != self._hour or not 0 <= now - self._written_at < WRITES_S:
            await self.write()

    async def by_key(self, day: int) -> dict[str, tuple[int, int]]:
        """The requests and the tokens of each key on a day since 1970, in UTC, until now. Raises ``UsageError``."""
        await self.write()
        return await asyncio.to_thread(_by_key, self.path, day)

    async def write(self) -> None:
        """Write all that has ended until now. Never raises: a failure is logged once, and the rows wait."""
        async with self._writing:
            if not self.days:
                return
            self._collect()
            self._written_at = self._clock()
            rows: list[Row] = [(labels, tuple(measures)) for labels, measures in self._waiting.items()]
            self._waiting = {}
            try:
                if rows:
                    self._note_aside(await asyncio.to_thread(_add, self.path, rows))
                if self._forgot_at < self._hour - _DAY_H or self._forgot_at > self._hour:
                    await asyncio.to_thread(_forget, self.path, self._hour - self.days * _DAY_H)
                    self._forgot_at = self._hour
            except Exception as error:
                self._keep(rows)
                if not self._fails:
                    reason = error if isinstance(error, UsageError) else repr(error)
                    log.warning("usage is not written and waits in memory: %s", reason)
                self._fails = True
            else:
                if self._fails:
                    log.warning("usage is written again")
                self._fails = False

    def _collect(self) -> None:
        """Add what has ended since the last time to the rows that wait, under the hour that ends now or goes on."""
        hour, self._hour = self._hour, int(self._clock() // HOUR_S)
        by_user = self._tally.take_users()
        new: dict[Key, Counts] = {}
        for kind, counts in self._tally.series.items():
            before = self._before.get(kind)
            if before is None or counts.requests != before.requests:
                new[kind] = counts.copy() if before is None else counts.since(before)
                self._before[kind] = counts.copy()
        for (kind, user), counts in by_user.items():
            self._add(hour, kind, self._known(hour, kind, user), counts)
            if kind in new:
                new[kind] = new[kind].since(counts)
        for kind, counts in new.items():
            if counts.requests:
                self._add(hour, kind, "", counts)
        if self._hour != hour:
            self._users.clear()

    def _known(self, hour: int, kind: Key, user: str) -> str:
        at = kind[4], user
        if at not in self._users:
            if len(self._users) >= MOST_USERS:
                return OTHER
            self._users.add(at)
        return user

    def _add(self, hour: int, kind: Key, user: str, counts: Counts) -> None:
        _, status, model, instance, key = kind
        measures = (
            counts.requests,
            counts.requests if status >= 400 else 0,
            counts.requests if not status else 0,
            counts.prompt,
            counts.completion,
            counts.cached,
            counts.estimated_prompt,
            counts.estimated_completion,
            counts.texts,
            counts.busy_s,
        )
        self._keep([(Labels(hour, key, user, model, instance), measures)])

    def _keep(self, rows: list[Row]) -> None:
        for labels, measures in rows:
            if len(self._waiting) >= MOST_WAITING and labels not in self._waiting:
                labels = labels._replace(user=OTHER)
            found = self._waiting.setdefault(labels, [0.0] * len(measures))
            for at, value in enumerate(measures):
                found[at] += value

    def _note_aside(self, aside: object) -> None:
        if aside is not None:
            log.warning("the usage file was damaged and is now %s; a new one was begun", aside)


# SQLite is imported on the thread that uses it, because the import takes longer than the start of a gateway may wait.


def _add(path: Path, rows: list[Row]) -> Path | None:
    from sage_inference.usage.store import UsageStore

    return UsageStore(path).add(rows)


def _by_key(path: Path, day: int) -> dict[str, tuple[int, int]]:
    from sage_inference.usage.store import UsageStore

    return UsageStore(path).by_key(day)


def _forget(path: Path, before: int) -> None:
    from sage_inference.usage.store import UsageStore

    UsageStore(path).forget(before)
