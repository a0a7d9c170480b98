"""The workloads: jobs by time, size, prefix, tenant and class. The same seed gives the same jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from sage_inference.replay.jobs import Job
from sage_inference.replay.workload import read_workload
from sage_inference.types import RequestPriority

DATA = Path(__file__).parents[2] / "data"
BLOCK = 512


def mooncake(speed: float, part: float = 1.0) -> list[Job]:
    """The first ``part`` of the conversation trace: long prompts, a third of their tokens seen before."""
    return _first(read_workload(DATA / "mooncake_conversation.csv.gz", speed).jobs, part)


def azure(speed: float, part: float = 1.0) -> list[Job]:
    """The first ``part`` of the conversation trace: short prompts, no prefixes known."""
    return _first(read_workload(DATA / "azure2023_conv.csv.gz", speed).jobs, part)


def _first(jobs: list[Job], part: float) -> list[Job]:
    return jobs[: round(part * len(jobs))]


def prefix_tenants(
    seconds: float, per_s: float = 64.0, tenants: int = 400, prefix_blocks: int = 12
) -> list[Job]:
    """Each tenant's requests begin with its own blocks; tenants are as popular as Zipf's law with 0.8 says."""
    rng = random.Random(1)
    weights = [1 / (rank + 1) ** 0.8 for rank in range(tenants)]
    jobs = []
    for at in _arrivals(rng, per_s, seconds):
        first = rng.choices(range(tenants), weights)[0] * prefix_blocks
        prompt = prefix_blocks * BLOCK + rng.randint(32, 512)
        jobs.append(Job(at, prompt, rng.randint(32, 256), tuple(range(first, first + prefix_blocks))))
    return jobs


def one_prefix(seconds: float, per_s: float) -> list[Job]:
    """One application: every request begins with the same system prompt of 2,048 tokens, then a question."""
    rng = random.Random(5)
    prefix = tuple(range(2048 // BLOCK))
    return [
        Job(at, 2048 + rng.randint(32, 512), rng.randint(100, 300), prefix)
        for at in _arrivals(rng, per_s, seconds)
    ]


def growing_chats(seconds: float, per_s: float) -> list[Job]:
    """People who talk on: each question comes with all that was said before, 15 s after the answer on average.

    ``per_s`` conversations begin in a second, of 8 turns on average, and share a system prompt of 1,024 tokens.
    """
    rng = random.Random(7)
    jobs: list[Job] = []
    for number, start in enumerate(_arrivals(rng, per_s, seconds)):
        talk = _Growing(number, 1024)
        at = start
        for _ in range(1 + int(rng.expovariate(1 / 7.5))):
            talk.grow(rng.randint(30, 800))
            output = rng.randint(50, 400)
            jobs.append(talk.job(at, output))
            talk.grow(output)
            at += 20 * output + 1000 * rng.expovariate(1 / 15)
    return _until(jobs, seconds)


def agent_loops(seconds: float, per_s: float) -> list[Job]:
    """Agents: many short answers, each to all that came before and what a tool returned, 2 s later on average.

    ``per_s`` agents begin in a second, of 25 turns on average. Four kinds of agents share 4,096 tokens of instructions
    each; to these comes a task of 2,000 to 12,000 tokens.
    """
    rng = random.Random(8)
    jobs: list[Job] = []
    for number, start in enumerate(_arrivals(rng, per_s, seconds)):
        work = _Growing(number, 4096, kind=rng.randrange(4))
        work.grow(rng.randint(2000, 12_000))
        at = start
        for _ in range(5 + int(rng.expovariate(1 / 20))):
            output = rng.randint(30, 150)
            jobs.append(work.job(at, output))
            work.grow(output + rng.randint(100, 1500))
            at += 20 * output + 1000 * rng.expovariate(1 / 2)
    return _until(jobs, seconds)


class _Growing:
    """A prompt that only grows; the first ``shared`` tokens are those of its ``kind``."""

    def __init__(self, number: int, shared: int, kind: int = 0) -> None:
        self._tokens = shared
        self._shared = [_KIND * (kind + 1) + block for block in range(shared // BLOCK)]
        self._own = _OWN * (number + 1)

    def grow(self, tokens: int) -> None:
        self._tokens += tokens

    def job(self, at: float, output: int) -> Job:
        own = range(self._own, self._own + self._tokens // BLOCK - len(self._shared))
        return Job(at, self._tokens, output, (*self._shared, *own))


_KIND, _OWN = 1000, 1_000_000  # blocks of kinds, and of single prompts, are numbered from their multiples


def chats(seconds: float, per_s: float, *, streams: bool = True) -> list[Job]:
    """Short prompts with nothing in common, in one piece where they are not streamed."""
    rng = random.Random(9)
    return [
        Job(at, rng.randint(200, 2000), rng.randint(50, 300), streams=streams)
        for at in _arrivals(rng, per_s, seconds)
    ]


def documents(seconds: float, chats_per_s: float, documents_per_s: float) -> list[Job]:
    """Chats, and now and then a document of 8,000 to 24,000 tokens."""
    rng = random.Random(10)
    long = [
        Job(at, rng.randint(8000, 24_000), rng.randint(50, 200))
        for at in _arrivals(rng, documents_per_s, seconds)
    ]
    return sorted([*chats(seconds, chats_per_s), *long], key=lambda job: job.at_ms)


def mixed_lengths(seconds: float) -> list[Job]:
    """Most chats are short; every sixth has a long prompt, every sixth may have a long answer, one in 60 is too long."""
    rng = random.Random(11)
    jobs = []
    for number, at in enumerate(_arrivals(rng, 10, seconds)):
        prompt, output = rng.randint(100, 1500), rng.randint(50, 300)
        if number % 60 == 59:
            prompt = 40_000
        elif number % 6 == 0:
            prompt = rng.randint(4000, 20_000)
        elif number % 6 == 3:
            output = rng.randint(3500, 6000)
        jobs.append(Job(at, prompt, output))
    return jobs


def _until(jobs: list[Job], seconds: float) -> list[Job]:
    """Those that come in time, in order: otherwise the load would fade at the end."""
    return sorted((job for job in jobs if job.at_ms < seconds * 1000), key=lambda job: job.at_ms)


def long_bursts(seconds: float) -> list[Job]:
    """People chat all the time; every 20 s a batch of 40 long documents comes at once, marked as background."""
    rng = random.Random(2)
    jobs = [Job(at, rng.randint(100, 2000), rng.randint(50, 300)) for at in _arrivals(rng, 20, seconds)]
    for burst in range(int(seconds // 20)):
        jobs += [
            Job(
                5000.0 + 20_000 * burst + number,
                rng.randint(8000, 24_000),
                rng.randint(50, 200),
                priority=RequestPriority.BACKGROUND,
            )
            for number in range(40)
        ]
    return sorted(jobs, key=lambda job: job.at_ms)


def noisy_tenant(seconds: float, per_s: float = 40, least: int = 2000, most: int = 8000) -> list[Job]:
    """Ten tenants ask a little; for the first half one more sends several times what the engines can take.

    Its prompts have from ``least`` to ``most`` tokens, those of the others from 200 to 2,000.
    """
    rng = random.Random(3)
    jobs = [
        Job(at, rng.randint(200, 2000), rng.randint(50, 300), tenant=f"quiet-{rng.randrange(10)}")
        for at in _arrivals(rng, 10, seconds)
    ]
    jobs += [
        Job(at, rng.randint(least, most), rng.randint(50, 300), tenant="noisy")
        for at in _arrivals(rng, per_s, seconds / 2)
    ]
    return sorted(jobs, key=lambda job: job.at_ms)


def _arrivals(rng: random.Random, per_s: float, seconds: float) -> Iterator[float]:
    """Poisson arrivals in milliseconds."""

    def forever() -> Iterator[float]:
        at = 0.0
        while True:
            at += rng.expovariate(per_s) * 1000
            yield at

    return takewhile(lambda at: at < seconds * 1000, forever())
