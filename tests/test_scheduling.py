"""How the suite is shared out: each test once, a file by one worker, what waits beside the rest, what is long first."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import scheduling

WAITING, LONG = scheduling.WAITING[0], scheduling.LONG[0]


class Worker:
    """A worker as the scheduler sees it: it runs what it was sent, except the last, until it is shut down."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.queue: list[int] = []
        self.ran: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def next(self) -> int | None:
        if len(self.queue) > (0 if self.shutting_down else 1):
            self.ran.append(self.queue.pop(0))
            return self.ran[-1]
        return None


def run(tests: list[str], named: int, additional: int) -> list[list[str]]:
    """The tests that each worker ran, while all are equally fast."""
    option = SimpleNamespace(numprocesses=named, tx=["popen"] * (named + additional), loadscopereorder=True)
    config: Any = SimpleNamespace(option=option, getvalue=lambda name: getattr(option, name))
    scheduler = scheduling.FileScheduling(config)
    workers = [Worker(f"gw{number}") for number in range(named + additional)]
    for worker in workers:
        scheduler.add_node(worker)
    for worker in workers:
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()
    went_on = True
    while went_on:
        went_on = False
        for worker in workers:
            index = worker.next()
            if index is not None:
                went_on = True
                scheduler.mark_test_complete(worker, index)
    assert all(worker.shutting_down and not worker.queue for worker in workers)
    assert not scheduler.has_pending
    return [[tests[index] for index in worker.ran] for worker in workers]


def suite(*files: tuple[str, int]) -> Iterator[str]:
    for file, number in files:
        yield from (f"{file}::test_{n}[a@b]" for n in range(number))


FILES = [("a.py", 5), ("b.py", 1), (WAITING, 20), ("c.py", 2), ("d.py", 40), ("e.py", 1), ("f.py", 1)]


@pytest.mark.parametrize("workers", [(2, 0), (2, 1), (2, 2), (4, 1), (9, 2)], ids=str)
@pytest.mark.parametrize("files", [FILES, FILES[:3], FILES[2:3], FILES[:2], FILES[:1]], ids=len)
def test_each_test_runs_once_and_a_file_on_one_worker(
    files: list[tuple[str, int]], workers: tuple[int, int]
) -> None:
    tests = list(suite(*files))
    ran = run(tests, *workers)
    assert sorted(one for each in ran for one in each) == sorted(tests)
    for file, _ in files:
        assert sum(any(one.startswith(f"{file}::") for one in each) for each in ran) == 1


def files(tests: list[str]) -> list[str]:
    """Their files, each once and in order."""
    return list(dict.fromkeys(one.partition("::")[0] for one in tests))


def test_what_waits_goes_to_the_additional_worker_and_what_is_long_begins() -> None:
    first, second, additional = map(files, run(list(suite(*FILES, (LONG, 9))), 2, 1))
    assert additional[0] == WAITING
    assert first[0] == LONG
    assert WAITING not in first + second


def test_additional_workers_take_others_when_nothing_waits_any_more() -> None:
    waiting = [(file, 5) for file in scheduling.WAITING[:2]]
    many = [(f"{number}.py", 10) for number in range(12)]
    *named, third, fourth = map(files, run(list(suite(*waiting, *many)), 2, 2))
    assert [third[0], fourth[0]] == list(scheduling.WAITING[:2])
    assert all(2 <= len(each) <= 4 for each in (*named, third[1:], fourth[1:]))
