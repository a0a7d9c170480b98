"""Several replays of a short record, with arrivals that differ by as little as those of callers do.

Where a request is placed depends on what is under way. So the figures of some hundred requests can change by a tenth if
one of them comes half a millisecond later. One replay is one of many that might have been. The spread of several shows
how far to trust their median.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sage_inference.replay.jobs import Job

MOST = 5  # odd, so that the median is the figure of a replay
REQUESTS = 6000  # of all replays together, at the most
LATER_MS = 0.5  # more would take the requests of a burst apart


def repeats(requests: int) -> int:
    """The number of replays of a record with so many requests: fewer of a long one, whose figures are steady."""
    return max(each for each in range(1, MOST + 1, 2) if each == 1 or each * requests <= REQUESTS)


def varied(jobs: Sequence[Job], number: int) -> Sequence[Job]:
    """The jobs of a replay by its number from 0 on. Those of the first are as they are."""
    if number == 0:
        return jobs
    chance = random.Random(number)
    return [_later(job, chance.uniform(0.0, LATER_MS)) for job in jobs]


def _later(job: Job, ms: float) -> Job:
    return replace(job, at_ms=job.at_ms + ms, think_ms=job.think_ms + ms)
