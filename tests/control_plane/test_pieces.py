"""Many requests become due in one moment: the event loop gets them in pieces."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from sage_inference.control_plane.queue.group_queue import PIECE
from sage_inference.control_plane.scheduler import Scheduler
from tests.control_plane.parts import Clock, Submitted, alarms_of, instance, manager, request, submit

MANY = 10_000


def pieces(m: Scheduler, clock: Clock, alarms: list[float]) -> Iterator[float]:
    """CPU seconds of each pass, while the scheduler asks for the next one at once. The collector is off meanwhile."""
    alarms[:] = [clock.now]
    gc.disable()
    try:
        while alarms and alarms[-1] <= clock.now:
            alarms.clear()
            start = time.thread_time()
            m.dispatch()
            yield time.thread_time() - start
    finally:
        gc.enable()


def crowd(
    clock: Clock, models: int = 1, deadline_ms: float | None = None, blocks: int = 0
) -> tuple[Scheduler, list[Submitted]]:
    """A full instance for each model, and requests that wait for them."""
    m = manager(*(instance(f"i{n}", 1, model=f"m{n}") for n in range(models)), clock=clock)
    for n in range(models):
        submit(m, request(f"first {n}", model=f"m{n}"))
    waiting = [
        submit(
            m,
            request(
                n,
                model=f"m{n % models}",
                deadline_ms=deadline_ms,
                blocks=range(n, n + blocks),
                tenant=f"t{n % 5}",
            ),
        )
        for n in range(MANY if blocks < 100 else MANY // 5)
    ]
    return m, waiting


@pytest.mark.parametrize(
    ("models", "deadline_ms", "blocks"),
    [(1, None, 0), (1, None, 3), (50, None, 0), (1, 2000.0, 0), (1, None, 500)],
    ids=["one group", "with prefixes", "fifty groups", "deadlines", "long prompts"],
)
def test_many_that_become_due_in_one_moment_are_ranked_in_pieces(
    models: int, deadline_ms: float | None, blocks: int
) -> None:
    clock = Clock()
    m, waiting = crowd(clock, models, deadline_ms, blocks)
    alarms = alarms_of(m)
    clock.now += 3.0
    took = list(pieces(m, clock, alarms))
    assert max(took) < 0.06  # 5 ms; 150 to 360 ms in one piece
    assert len(took) > 2
    refused = sum(each.refusal is not None for each in waiting)
    overdue = sum(each.place is not None and each.place.overdue for each in waiting)
    assert (refused, overdue) == ((MANY, 0) if deadline_ms else (0, len(waiting)))


def test_an_instance_that_opens_meanwhile_gets_the_next_request_of_the_full_order() -> None:
    """Each event ranks a piece, and no request that is overdue passes one in time."""
    clock = Clock()
    m = manager(instance("a", 1), clock=clock)
    running = submit(m, request("first"))
    old = [submit(m, request(n, arrived=clock.now)) for n in range(3 * PIECE)]
    clock.now += 3.0
    new = submit(m, request("new", arrived=clock.now))
    alarms = alarms_of(m)
    m.release(running)
    for _ in pieces(m, clock, alarms):
        pass
    assert new.where is not None
    assert not any(each.where for each in old)


def test_reservations_that_end_in_one_moment_return_in_pieces() -> None:
    clock = Clock()
    warm, cold = instance("warm", window=100), instance("cold", window=100)
    m = manager(warm, cold, clock=clock)
    blocks = tuple(range(4))
    m._selector.prefixes.add(warm, request(tokens=256, blocks=blocks))
    for busy in (warm, cold):
        busy.load.pending_tokens, busy.load.progress_at = 100, clock.now
    waiting = [submit(m, request(n, 256, blocks=blocks, arrived=clock.now)) for n in range(6000)]
    alarms = alarms_of(m)
    clock.now += 5.0
    took = list(pieces(m, clock, alarms))
    assert max(took) < 0.06
    assert all(each.where or (each.place is not None and not each.place.reserved_for) for each in waiting)
