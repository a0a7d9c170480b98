"""The usage store: one SQLite file in the state directory.

Each call opens the file anew, so that a file that was deleted or restored is noticed. Calls may block for some
milliseconds, so the gateway makes them on a thread. Several gateways may share a file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sage_inference.usage.columns import MEASURES, Labels, Row, UsageError

_VERSION = 1  # of the table
_DAY_H = 24
_TOKENS = " + ".join(name for name in MEASURES if name.endswith(("prompt_tokens", "completion_tokens")))
_BUSY_S = 5.0  # another process writes
_SUMS = ", ".join(f"{name} = {name} + excluded.{name}" for name in MEASURES)
_ADD = (
    f"INSERT INTO usage ({', '.join((*Labels._fields, *MEASURES))}) "
    f"VALUES ({', '.join('?' * (len(Labels._fields) + len(MEASURES)))}) "
    f"ON CONFLICT ({', '.join(Labels._fields)}) DO UPDATE SET {_SUMS}"
)


class UsageStore:
    """Adds usage to the file, and reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, rows: Iterable[Row], mark: int = 0) -> Path | None:
        """Add the rows to what is stored, all or none. Raises ``UsageError``.

        ``mark`` is stored with them. A file that is damaged is set aside. Returns its new path then.
        """
        values: list[tuple[float | str, ...]] = [(*labels, *measures) for labels, measures in rows]
        try:
            self._add(values, mark)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, not writable: nothing is damaged
                raise self._unusable(error) from None
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time():.0f}")
            try:
                self.path.rename(aside)
                self._add(values, mark)
            except (OSError, sqlite3.Error) as another:
                raise self._unusable(another) from None
            return aside
        except OSError as error:
            raise self._unusable(error) from None
        return None

    def rows(self, since: int, until: int) -> list[Row]:
        """The rows of the hours from ``since`` up to and without ``until``. Raises ``UsageError``."""
        columns = ", ".join((*Labels._fields, *MEASURES))
        found = self._select(columns, since, until, "ORDER BY hour")
        return [(Labels(*row[: len(Labels._fields)]), tuple(row[len(Labels._fields) :])) for row in found]

    def by_key(self, day: int) -> dict[str, tuple[int, int]]:
        """The requests and the tokens of each key on a day since 1970, in UTC. Raises ``UsageError``."""
        begin = day * _DAY_H
        found = self._select(f"key, SUM(requests), SUM({_TOKENS})", begin, begin + _DAY_H, "GROUP BY key")
        return {key: (requests, tokens) for key, requests, tokens in found}

    def _select(self, columns: str, since: int, until: int, then: str) -> list[tuple[Any, ...]]:
        """The rows of the hours from ``since`` up to and without ``until``; none where nothing was ever stored."""
        if self._is_empty():
            return []
        try:
            with self._open() as store:
                return store.execute(
                    f"SELECT {columns} FROM usage WHERE hour >= ? AND hour < ? {then}", (since, until)
                ).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None

    def forget(self, before: int) -> None:
        """Delete the hours before ``before``. Raises ``UsageError``."""
        if not self.path.exists():
            return
        try:
            with self._open() as store:
                store.execute("DELETE FROM usage WHERE hour < ?", (before,))
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None

    def _is_empty(self) -> bool:
        """Whether nothing was ever stored. On a full disk the file stays without a table, which a reader could not make."""
        try:
            return not self.path.stat().st_size
        except FileNotFoundError:
            return True
        except OSError as error:
            raise self._unusable(error) from None

    def mark(self) -> int:
        """The mark of the last rows that were added with one; 0 without any. Raises ``UsageError``."""
        if self._is_empty():
            return 0
        try:
            with self._open() as store:
                (found,) = store.execute("PRAGMA application_id").fetchone()
                return int(found)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None

    def _add(self, values: list[tuple[float | str, ...]], mark: int) -> None:
        with self._open() as store:
            store.executemany(_ADD, values)
            if mark:  # a number in the file that SQLite leaves to programs, and changes within a transaction
                store.execute(f"PRAGMA application_id = {mark}")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database within a transaction, with its table. The names of users are nobody else's to read."""
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as store, store:
            (version,) = store.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise UsageError(
                    f"{self.path} is of a newer version of sage-inference; upgrade, or move it away"
                )
            if not version:
                store.execute(
                    "CREATE TABLE IF NOT EXISTS usage (hour INTEGER, key TEXT, user TEXT, model TEXT, instance TEXT, "
                    + ", ".join(f"{name} {_type(name)} NOT NULL" for name in MEASURES)
                    + f", PRIMARY KEY ({', '.join(Labels._fields)})) WITHOUT ROWID"
                )
                store.execute(f"PRAGMA user_version = {_VERSION}")
            yield store

    def _unusable(self, error: Exception) -> UsageError:
        return UsageError(f"{self.path} cannot be used: {getattr(error, 'strerror', None) or error}")


def _type(measure: str) -> str:
    return "REAL" if measure == "gpu_seconds" else "INTEGER"
