"""Recognizes callers that ask again after an answer, so that a replay lets them wait for its own answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from sage_inference.replay.jobs import Job, Outcome

AT_ONCE_MS = 1000.0  # without connections, a request follows an answer that ended within this time before it
LONGEST_MS = 60_000.0  # a longer pause on a connection is no time to think
FOLLOWING = 0.5  # of the requests must follow an answer
# Of the mean time between two arrivals: so little do pauses differ if callers think for one time.
STEADY = 0.2
FEWEST = 10  # choices that show a rule


@dataclass(frozen=True, slots=True)
class Link:
    """A request follows the one at place ``after``, ``think_ms`` after its answer."""

    after: int
    think_ms: float


Links = dict[int, Link]  # by the place of the request that follows


def closed_loops(
    outcomes: Sequence[Outcome], connections: Sequence[int | None], closed: bool | None = None
) -> Links:
    """The links between the requests of a record, in order of arrival; none if they arrive on their own.

    ``closed`` is whether callers wait for their answers; None lets the connections decide. A record without connections
    needs it.
    """
    if closed is False:
        return {}
    known = sum(each is not None for each in connections) > len(connections) / 2
    if not known:
        return _by_time(outcomes) if closed else {}
    links = _by_connection(outcomes, connections)
    return links if closed or _wait_for_answers(outcomes, connections, links) else {}


def linked(jobs: Sequence[Job], links: Links) -> list[Job]:
    return [
        replace(job, follows=links[place].after, think_ms=links[place].think_ms) if place in links else job
        for place, job in enumerate(jobs)
    ]


def _by_connection(outcomes: Sequence[Outcome], connections: Sequence[int | None]) -> Links:
    links: Links = {}
    last: dict[int, int] = {}
    for place, (outcome, connection) in enumerate(zip(outcomes, connections, strict=True)):
        if connection is None:
            continue
        before = last.get(connection)
        if before is not None and (ended := outcomes[before].end_ms) is not None:
            think_ms = outcome.job.at_ms - ended
            if 0.0 <= think_ms <= LONGEST_MS:
                links[place] = Link(before, think_ms)
        last[connection] = place
    return links


def _by_time(outcomes: Sequence[Outcome]) -> Links:
    """Each request follows the answer that ended first among those that nothing followed yet."""
    links: Links = {}
    ends = sorted(
        (outcome.end_ms, place) for place, outcome in enumerate(outcomes) if outcome.end_ms is not None
    )
    free: deque[tuple[float, int]] = deque()
    ended = 0
    for place, outcome in enumerate(outcomes):
        at = outcome.job.at_ms
        while ended < len(ends) and ends[ended][0] <= at:
            free.append(ends[ended])
            ended += 1
        while free and at - free[0][0] > AT_ONCE_MS:
            free.popleft()
        if free:
            end, before = free.popleft()
            links[place] = Link(before, at - end)
    return links


def _wait_for_answers(outcomes: Sequence[Outcome], connections: Sequence[int | None], links: Links) -> bool:
    """Whether the connections are those of callers that wait for their answers, and not of a pool.

    A pool takes the idle connection that was used last, or longest ago. Callers that think for one time, however short,
    look like a pool of the second kind. But on its connections the pauses differ by as much as arrivals do.
    """
    if len(links) < FOLLOWING * len(outcomes):
        return False
    newest, oldest = _choices(outcomes, connections, links)
    if newest.is_rule:
        return False
    thinks = [link.think_ms for link in links.values()]
    usual = median(thinks)
    gap_ms = (outcomes[-1].job.at_ms - outcomes[0].job.at_ms) / len(outcomes)
    if median([abs(think - usual) for think in thinks]) <= STEADY * gap_ms:
        return True
    return not oldest.is_rule


@dataclass(slots=True)
class _Choice:
    """How often one of several idle connections was the newest, or the oldest; and how often it would be by chance."""

    made: int = 0
    hits: int = 0
    by_chance: float = 0.0

    def note(self, hit: bool, idle: int) -> None:
        self.made += 1
        self.hits += hit
        self.by_chance += 1 / idle

    @property
    def is_rule(self) -> bool:
        """Whether chance explains less than half of what it leaves open."""
        return self.made >= FEWEST and self.hits - self.by_chance >= (self.made - self.by_chance) / 2


def _choices(
    outcomes: Sequence[Outcome], connections: Sequence[int | None], links: Links
) -> tuple[_Choice, _Choice]:
    """The choices of the newest and of the oldest idle connection. One that is not used again is closed, not idle."""
    newest, oldest = _Choice(), _Choice()
    uses = Counter(connections)
    ends = sorted(
        (outcome.end_ms, connection)
        for outcome, connection in zip(outcomes, connections, strict=True)
        if outcome.end_ms is not None and connection is not None
    )
    idle_since: dict[int, float] = {}
    ended = 0
    for place, (outcome, connection) in enumerate(zip(outcomes, connections, strict=True)):
        while ended < len(ends) and ends[ended][0] <= outcome.job.at_ms:
            end, freed = ends[ended]
            ended += 1
            if uses[freed]:
                idle_since[freed] = end
        if connection is None:
            continue
        uses[connection] -= 1
        mine = idle_since.pop(connection, None)
        if mine is not None and place in links and idle_since:
            others = idle_since.values()
            newest.note(mine > max(others), len(others) + 1)
            oldest.note(mine < min(others), len(others) + 1)
    return newest, oldest
