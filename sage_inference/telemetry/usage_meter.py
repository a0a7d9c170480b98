"""Writes the tally of ended requests into the usage store, some seconds later and off the event loop.

A crash loses the requests of the last ``WRITES_S`` seconds. While the store cannot be written, the rows are in its
reserve, and the log has one line. Rows for which that has no room wait in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage_inference.config.settings import UsageSettings
from sage_inference.telemetry.tally import OTHER, Counts, Key, RequestTally
from sage_inference.usage.columns import HOUR_S, Added, Labels, Row, UsageError
from sage_inference.usage.reserve import opened, reserve_of

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
        self._reserved = 0  # requests in the reserve
        self._problem: str | None = None
        self._lost = 0  # requests of earlier gateways
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
        await self._write(None)

    async def _write(self, merged_as: str | None) -> None:
        async with self._writing:
            if not self.days:
                return
            self._collect()
            self._written_at = self._clock()
            rows = self._take_waiting()
            try:
                self._note(await asyncio.to_thread(_add, self.path, rows, merged_as))
            except Exception as error:
                self._keep(rows)
                self._note_problem(str(error) if isinstance(error, UsageError) else repr(error), "in memory")
                return
            try:
                if self._forgot_at < self._hour - _DAY_H or self._forgot_at > self._hour:
                    await asyncio.to_thread(_forget, self.path, self._hour - self.days * _DAY_H)
                    self._forgot_at = self._hour
            except Exception as error:
                log.warning("old usage is not forgotten yet: %s", error)
                self._forgot_at = self._hour

    async def close(self) -> None:
        """Write for the last time. Rows that no file has room for lose their users first, and then are lost."""
        await self._write(OTHER)
        if lost := self._in_memory:
            log.error("usage of %d requests is lost: %s", lost, self._problem)
            with contextlib.suppress(Exception):
                await asyncio.to_thread(_give_up, self.path, lost)
        elif self._reserved:
            log.warning(
                "usage of %d requests is in %s, and the next gateway stores it",
                self._reserved,
                reserve_of(self.path),
            )

    def document(self) -> dict[str, Any] | None:
        """The state of the record; None without one."""
        if not self.days:
            return None
        return {
            "kept_days": self.days,
            "waiting_requests": self._reserved + self._in_memory,
            "lost_requests": self._lost,
            "problem": self._problem,
        }

    def remarks(self) -> list[str]:
        """Sentences on usage that is not stored, or lost."""
        waiting, found = self._reserved + self._in_memory, []
        if self.days and self._problem is not None:
            found.append(f"usage of {waiting:,} requests is not stored yet: {self._problem}")
        if self._lost:
            found.append(f"usage of {self._lost:,} requests of an earlier gateway is lost")
        return found

    @property
    def _in_memory(self) -> int:
        return int(sum(measures[0] for measures in self._waiting.values()))

    def _take_waiting(self) -> list[Row]:
        rows: list[Row] = [(labels, tuple(measures)) for labels, measures in self._waiting.items()]
        self._waiting = {}
        return rows

    def _note(self, added: Added | None) -> None:
        """Log what changed. ``added`` is None if there was nothing to add."""
        added = added or Added()
        self._reserved = added.reserved
        if added.problem is not None:
            self._note_problem(added.problem, "in its reserve")
            return
        if added.aside is not None:
            log.warning("the usage file was damaged and is now %s; a new one was begun", added.aside)
        if added.lost:
            self._lost += added.lost
            log.warning("an earlier gateway found no room for the usage of %d requests", added.lost)
        if self._problem is not None:
            log.warning("usage is written again")
            self._problem = None

    def _note_problem(self, problem: str, where: str) -> None:
        if self._problem is None:
            log.warning("usage is not written and waits %s: %s", where, problem)
        self._problem = problem

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


# SQLite is imported on the thread that uses it, because the import takes longer than the start of a gateway may wait.


def _add(path: Path, rows: list[Row], merged_as: str | None) -> Added | None:
    if not rows:
        with opened(reserve_of(path)) as reserve:
            if not reserve.rows and not reserve.lost:
                reserve.make()
                return None
    from sage_inference.usage.ledger import UsageLedger

    return UsageLedger(path).add(rows, merged_as)


def _give_up(path: Path, requests: int) -> None:
    from sage_inference.usage.ledger import UsageLedger

    UsageLedger(path).give_up(requests)


def _by_key(path: Path, day: int) -> dict[str, tuple[int, int]]:
    from sage_inference.usage.ledger import UsageLedger

    return UsageLedger(path).by_key(day)


def _forget(path: Path, before: int) -> None:
    if not path.exists():  # a gateway that has counted nothing goes without SQLite
        return
    from sage_inference.usage.ledger import UsageLedger

    UsageLedger(path).forget(before)
