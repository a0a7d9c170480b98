"""Recognizes callers that ask again after an answer, so that a replay lets them wait for its own answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, pstdev

from sage_inference.replay.jobs import Job, Outcome

AT_ONCE_MS = 1000.0  # without connections, a request follows an answer that ended within this time before it
LONGEST_MS = 60_000.0  # a longer pause on a connection is no time to think
FOLLOWING = 0.5  # of the requests must follow an answer
IDLE = 0.1  # of the connections known are idle at most when a caller that waits for its answer asks again
POOLED = 0.8  # of the choices among idle connections: then a pool made them, and not the callers
STEADY = 0.3  # standard deviation of pauses, in parts of their mean, that a pool does not show


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

    If callers wait, hardly a connection is idle when another request comes; or the callers think for a while, and then
    the idle connections are used again in any order. A pool takes the one that was used last, or longest ago. Callers that
    all think for the same time look like a pool of the second kind, but the pauses on a pool's connections vary.
    """
    if len(links) < FOLLOWING * len(outcomes):
        return False
    few, newest, oldest, choices = 0, 0, 0, 0
    idle_since: dict[int, float] = {}
    ends = sorted(
        (outcome.end_ms, connection)
        for outcome, connection in zip(outcomes, connections, strict=True)
        if outcome.end_ms is not None and connection is not None
    )
    uses: dict[int, int] = {}
    for connection in connections:
        if connection is not None:
            uses[connection] = uses.get(connection, 0) + 1
    known, ended = len(uses), 0
    for place, (outcome, connection) in enumerate(zip(outcomes, connections, strict=True)):
        at = outcome.job.at_ms
        while ended < len(ends) and ends[ended][0] <= at:
            end, freed = ends[ended]
            ended += 1
            if uses[freed]:  # a connection that is not used again is closed
                idle_since[freed] = end
        if connection is None:
            continue
        uses[connection] -= 1
        mine = idle_since.pop(connection, None)
        if place not in links or mine is None:
            continue
        few += len(idle_since) <= IDLE * known
        if len(idle_since) >= 2:
            choices += 1
            newest += mine >= max(idle_since.values())
            oldest += mine <= min(idle_since.values())
    if few >= POOLED * len(links):
        return True
    thinks = [link.think_ms for link in links.values()]
    if pstdev(thinks) <= STEADY * mean(thinks):
        return True
    return max(newest, oldest) < POOLED * choices
