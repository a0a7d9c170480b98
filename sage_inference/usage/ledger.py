"""The record of usage: the store, and the reserve for what the store cannot take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sage_inference.usage.columns import HOUR_S, MEASURES, Added, Labels, Row, UsageError
from sage_inference.usage.reserve import ReserveFullError, UsageReserve, opened, reserve_of
from sage_inference.usage.store import UsageStore

_DAY_H = 24 * 3600 // HOUR_S
_REQUESTS = MEASURES.index("requests")
_TOKENS = [at for at, name in enumerate(MEASURES) if name.endswith(("prompt_tokens", "completion_tokens"))]


class UsageLedger:
    """Adds usage, and reads it."""

    def __init__(self, path: Path) -> None:
        """``path`` is that of the store."""
        self._store = UsageStore(path)
        self.reserve = reserve_of(path)

    def add(self, rows: Sequence[Row], merged_as: str | None = None) -> Added:
        """Add the rows to the store, with those in the reserve; if the store cannot be written, to the reserve.

        If the reserve is too small for them, its rows count as those of one user, ``merged_as``, if that is given.
        Raises ``UsageError`` if neither takes the rows. Then nothing has changed.
        """
        with opened(self.reserve) as reserve:
            lost = reserve.lost
            together = summed([*self._unstored(reserve), *rows])
            try:
                aside = self._store.add(together, reserve.number) if together else None
            except UsageError as error:
                if not _put(reserve, together, merged_as):
                    raise
                return Added(None, requests_of(together), str(error), lost)
            if reserve.rows or lost:
                reserve.put(())
            reserve.make()
            return Added(aside, lost=lost)

    def give_up(self, requests: int) -> None:
        """Note for the next gateway that so many requests found no room. Does nothing where that has no room either."""
        with opened(self.reserve) as reserve:
            try:
                reserve.put(reserve.rows, reserve.lost + requests)
            except ReserveFullError:
                return

    def rows(self, since: int, until: int) -> list[Row]:
        """The rows of the hours from ``since`` up to and without ``until``. Raises ``UsageError``."""
        with opened(self.reserve) as reserve:
            kept = [row for row in self._unstored(reserve) if since <= row[0].hour < until]
            return [*self._store.rows(since, until), *kept]

    def by_key(self, day: int) -> dict[str, tuple[int, int]]:
        """The requests and the tokens of each key on a day since 1970, in UTC. Raises ``UsageError``."""
        with opened(self.reserve) as reserve:
            found = self._store.by_key(day)
            for labels, measures in self._unstored(reserve):
                if labels.hour // _DAY_H == day:
                    requests, tokens = found.get(labels.key, (0, 0))
                    more = int(sum(measures[at] for at in _TOKENS))
                    found[labels.key] = requests + int(measures[_REQUESTS]), tokens + more
            return found

    def forget(self, before: int) -> None:
        """Delete the hours before ``before``. Raises ``UsageError``."""
        self._store.forget(before)

    def _unstored(self, reserve: UsageReserve) -> list[Row]:
        """The rows in the reserve. A gateway that crashed may have stored them, and not taken them out."""
        if not reserve.rows:
            return []
        try:
            return [] if self._store.mark() == reserve.number else reserve.rows
        except UsageError:  # a store that cannot be read has taken nothing
            return reserve.rows


def _put(reserve: UsageReserve, rows: Sequence[Row], merged_as: str | None) -> bool:
    """Keep the rows in the reserve. Returns whether there is room."""
    choices = [rows]
    if merged_as is not None:
        choices.append(summed((labels._replace(user=merged_as), measures) for labels, measures in rows))
    for choice in choices:
        try:
            reserve.put(choice, reserve.lost)
        except ReserveFullError:
            continue
        return True
    return False


def summed(rows: Iterable[Row]) -> list[Row]:
    """The rows, those with the same labels as one."""
    sums: dict[Labels, list[float]] = {}
    for labels, measures in rows:
        found = sums.setdefault(labels, [0] * len(measures))
        for at, value in enumerate(measures):
            found[at] += value
    return [(labels, tuple(measures)) for labels, measures in sums.items()]


def requests_of(rows: Iterable[Row]) -> int:
    return int(sum(measures[_REQUESTS] for _, measures in rows))
