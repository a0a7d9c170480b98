"""The number of replicas that the demand for a model asks for.

Work is counted in replica-seconds: the seconds that one replica takes for the prompts. So the work that comes in a second
is the number of replicas that it keeps busy. The rules, of which the first that applies decides:

1. A change is under way until the replicas are as many as wanted, or ``PATIENCE_S`` have passed. Nothing else is decided.
2. A request finds no replica: one is wanted.
3. For ``UP_AFTER_S`` the queue's wait exceeds the SLO, or streams beside much work lose theirs: as many are wanted as the
   work that comes keeps busy for ``BUSY`` of their time, and beside it the queue in ``DRAIN_S``; at least one more.
4. Replicas were busy for more than ``BUSY`` of the last ``STEADY_S``: as many as the work needs. It is seen before requests
   wait, because a replica takes minutes to start.
5. For ``DOWN_AFTER_S`` nothing of 3 was seen, and fewer replicas would have been busy for less than
   ``CALM`` of their time in any ``STEADY_S``: so many fewer.
6. Nothing has been asked for during ``DOWN_AFTER_S``: the least number, which may be none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

UP_AFTER_S = 10.0
STEADY_S = 60.0
DOWN_AFTER_S = 300.0
DRAIN_S = 60.0
PATIENCE_S = 900.0
BUSY = 0.5
CALM = 0.35


@dataclass(frozen=True, slots=True)
class Demand:
    """A gateway's reading of one model, about a second after the one before.

    ``work`` are replica-seconds of prompts that came in a second, ``backlog_s`` those that wait now. ``lateness`` is the
    time in which the queue would be served, as a multiple of the SLO of what waits. ``strained`` is whether streams lose the
    SLO of their tokens. ``asked`` is whether any request came,
    waits or runs; ``unserved`` are requests that found no replica.
    """

    replicas: int
    work: float = 0.0
    backlog_s: float = 0.0
    lateness: float = 0.0
    strained: bool = False
    asked: bool = False
    unserved: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """The replicas that are wanted, and why. The reason is a clause for people."""

    replicas: int
    reason: str


@dataclass(slots=True)
class _Seen:
    at: float
    work: float  # mean of the last ``STEADY_S``
    late: bool
    asked: bool


class DemandLaw:
    """Decides for one model, from a reading a second. Times are seconds of any clock that only grows."""

    def __init__(self, least: int, most: int) -> None:
        """Raises ``ValueError`` unless 0 <= ``least`` <= ``most`` and 1 <= ``most``."""
        if not 0 <= least <= most or most < 1:
            raise ValueError(
                f"{least} to {most} replicas: the least must not exceed the most, which is 1 at least"
            )
        self.least = least
        self.most = most
        self.target: ReplicaTarget | None = None  # the last decision
        self._decided_at: float | None = None  # while its change is under way
        self._late_since: float | None = None
        self._minute: deque[tuple[float, float]] = deque()  # time and work of each reading
        self._sum = 0.0  # of the work in it
        self._past: deque[_Seen] = deque()  # the last ``DOWN_AFTER_S`` with the present number of replicas

    def see(self, now: float, demand: Demand) -> ReplicaTarget | None:
        """A new target, or None if all stays as it is."""
        if self._decided_at is not None and not self._has_ended(now, demand.replicas):
            return None
        self._note(now, demand)
        found = self._wanted(now, demand)
        if found is None or found.replicas == demand.replicas:
            return None
        self.target = found
        self._decided_at = now
        self._late_since = None
        return found

    @property
    def is_changing(self) -> bool:
        """Whether the last decision has not taken effect yet."""
        return self._decided_at is not None

    def _has_ended(self, now: float, replicas: int) -> bool:
        assert self.target is not None
        assert self._decided_at is not None
        if replicas != self.target.replicas and now - self._decided_at < PATIENCE_S:
            return False
        self._decided_at = self._late_since = None
        self._minute.clear()
        self._sum = 0.0
        self._past.clear()  # with another number of replicas other things would have been seen
        return True

    def _note(self, now: float, demand: Demand) -> None:
        self._minute.append((now, demand.work))
        self._sum += demand.work
        while self._minute[0][0] <= now - STEADY_S:
            self._sum -= self._minute.popleft()[1]
        # Streams show what they bear only when they end: without much work the last ones may have ended long ago.
        slow = demand.strained and self._mean() > CALM * demand.replicas
        late = demand.lateness > 1.0 or slow
        if not late:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        self._past.append(_Seen(now, self._mean(), late, demand.asked))
        while len(self._past) > 1 and self._past[1].at <= now - DOWN_AFTER_S:
            self._past.popleft()

    def _mean(self) -> float:
        return max(0.0, self._sum) / len(self._minute)

    def _wanted(self, now: float, demand: Demand) -> ReplicaTarget | None:
        replicas = demand.replicas
        if replicas < self.least:
            return ReplicaTarget(self.least, f"fewer than {self.least} run")
        if replicas > self.most:
            return ReplicaTarget(self.most, f"more than {self.most} run")
        if not replicas:
            return self._within(1, "a request came and no replica runs") if demand.unserved else None
        return self._more(now, demand) or self._fewer(now, replicas)

    def _more(self, now: float, demand: Demand) -> ReplicaTarget | None:
        replicas, work = demand.replicas, self._mean()
        if self._late_since is not None and now - self._late_since >= UP_AFTER_S:
            needed = ceil(work / BUSY + demand.backlog_s / DRAIN_S)
            if demand.lateness > 1.0:
                reason = f"the queue takes {demand.lateness:.1f} times its SLO"
            else:
                reason = (
                    f"streams are slower than their SLO, and {work:.1f} of {replicas} are busy with prompts"
                )
            return self._within(max(needed, replicas + 1), reason)
        if now - self._minute[0][0] >= STEADY_S - 2.0 and work > BUSY * replicas:
            return self._within(ceil(work / BUSY), f"prompts kept {work:.1f} of {replicas} busy for a minute")
        return None

    def _fewer(self, now: float, replicas: int) -> ReplicaTarget | None:
        past = self._past
        if now - past[0].at < DOWN_AFTER_S or any(each.late for each in past):
            return None
        minutes = DOWN_AFTER_S / 60
        if not any(each.asked for each in past):
            return self._within(self.least, f"no request came for {minutes:.0f} minutes")
        most = max(each.work for each in past)
        needed = max(1, ceil(most / CALM))
        if needed >= replicas:
            return None
        return self._within(
            needed, f"in {minutes:.0f} minutes prompts kept at most {most:.1f} of {replicas} busy"
        )

    def _within(self, replicas: int, reason: str) -> ReplicaTarget:
        return ReplicaTarget(min(self.most, max(self.least, replicas)), reason)
