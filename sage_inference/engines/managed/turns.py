"""One start at a time on each GPU: an engine's own measurement of free memory must not see another's start or stop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

ALL = "*"  # a GPU that is not chosen yet: any of them


@dataclass(frozen=True, slots=True)
class _Turn:
    name: str
    gpus: frozenset[str]
    came: Callable[[], None]


class Turns:
    """Grants the GPUs in the order of the requests. An engine without a GPU never waits."""

    def __init__(self) -> None:
        self._held: dict[str, frozenset[str]] = {}
        self._waiting: list[_Turn] = []

    def take(self, name: str, gpus: Collection[str], came: Callable[[], None]) -> None:
        """Call ``came`` as soon as no other engine holds one of ``gpus``. That may be at once."""
        self.give(name)
        self._waiting.append(_Turn(name, frozenset(gpus), came))
        self._grant()

    def hold(self, name: str, gpus: Collection[str]) -> None:
        """Hold the GPUs without waiting, because an engine starts or stops there already."""
        self._waiting = [each for each in self._waiting if each.name != name]
        self._held[name] = frozenset(gpus)

    def give(self, name: str) -> None:
        """Give the turn back, or stop waiting for it."""
        self._held.pop(name, None)
        self._waiting = [each for each in self._waiting if each.name != name]
        self._grant()

    def holds(self, name: str) -> bool:
        return name in self._held

    def blocker(self, name: str) -> str | None:
        """The name of an engine that ``name`` waits for."""
        own = next((each for each in self._waiting if each.name == name), None)
        if own is None:
            return None
        return next((other for other, gpus in self._held.items() if _meet(own.gpus, gpus)), None)

    def _grant(self) -> None:
        blocked: list[frozenset[str]] = list(self._held.values())
        still: list[_Turn] = []
        granted: list[_Turn] = []
        for each in self._waiting:
            if any(_meet(each.gpus, gpus) for gpus in blocked):
                still.append(each)
                blocked.append(each.gpus)  # those behind it must not pass it
            else:
                granted.append(each)
                blocked.append(each.gpus)
        self._waiting = still
        for each in granted:
            self._held[each.name] = each.gpus
        for each in granted:
            each.came()


def _meet(one: frozenset[str], other: frozenset[str]) -> bool:
    if not one or not other:
        return False
    return ALL in one or ALL in other or bool(one & other)
