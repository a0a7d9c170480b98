"""The queue: no request is lost or doubled, its counts are those of its requests, and a change of groups keeps all."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.orders import ORDERS
from sage_inference.control_plane.queue.request_queue import RequestQueue
from sage_inference.control_plane.submission import Group, Waiting
from sage_inference.types import RequestPriority
from tests.control_plane.parts import Submitted, instance, request

A, B = instance("a"), instance("b")
GROUPS: tuple[Group, ...] = ((A,), (B,), (A, B))
TENANTS = ("", "team-a", "team-b")
NOW = 100.0


def submission(
    number: int, size: int = 10, *, arrived: float = NOW, tenant: str = "", deadline: bool = False
) -> Submitted:
    priority = list(RequestPriority)[number % len(RequestPriority)]
    deadline_ms = 5000.0 if deadline else None
    return Submitted(
        request(number, arrived=arrived, tenant=tenant, priority=priority, deadline_ms=deadline_ms), size
    )


def waiting_of(queue: RequestQueue) -> list[Waiting]:
    return [waiting for group_queue in queue.group_queues.values() for waiting in group_queue.everyone()]


def consistent(queue: RequestQueue, known: Mapping[Waiting, Group]) -> None:
    found = waiting_of(queue)
    assert len(found) == len(set(found)) == queue.requests
    assert set(found) == set(known)
    assert queue.bytes == sum(waiting.submission.size for waiting in found)
    assert all(group_queue for group_queue in queue.group_queues.values()), "an empty lane"
    for (group, order), group_queue in queue.group_queues.items():
        assert (group_queue.group, group_queue.order.name) == (group, order)
        assert group_queue.tokens == sum(waiting.request.prompt_tokens for waiting in group_queue.everyone())
    for waiting in found:
        assert waiting.submission.place is waiting
        assert waiting.group == known[waiting]


def drained(queue: RequestQueue, now: float) -> list[Waiting]:
    """All requests, in the order in which the lanes give them."""
    found = []
    while queue.group_queues:
        group_queue = next(iter(queue.group_queues.values()))
        waiting = group_queue.next(now)
        assert waiting is not None
        queue.remove(waiting)
        group_queue.placed(waiting)
        found.append(waiting)
    return found


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"),
            st.integers(0, 2),
            st.sampled_from(sorted(ORDERS)),
            st.integers(0, 50),
            st.sampled_from(TENANTS),
            st.booleans(),
        ),
        st.tuples(st.just("leave"), st.integers(0, 99)),
        st.tuples(st.just("next"), st.integers(0, 99), st.sampled_from([0.0, 0.5, 40.0])),
        st.tuples(st.just("regroup"), st.integers(0, 2), st.sampled_from(sorted(ORDERS))),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(STEPS)
def test_no_request_is_lost_or_doubled_whatever_happens(steps: list[tuple[object, ...]]) -> None:
    queue = RequestQueue(TenantCounters())
    known: dict[Waiting, Group] = {}
    now, number = NOW, 0
    for step in steps:
        match step:
            case ("come", int(group), str(order), int(size), str(tenant), bool(deadline)):
                number += 1
                came = submission(number, size, arrived=now, tenant=tenant, deadline=deadline)
                waiting = queue.add(came, GROUPS[group], order, 3.0, now)
                known[waiting] = GROUPS[group]
            case ("leave", int(pick)) if known:
                waiting = list(known)[pick % len(known)]
                queue.remove(waiting)
                del known[waiting]
                assert waiting.submission.place is None
            case ("next", int(pick), float(passed)) if known:
                now += passed
                group_queue = list(queue.group_queues.values())[pick % len(queue.group_queues)]
                found = group_queue.next(now)
                assert found is not None
                assert found in known
                queue.remove(found)
                group_queue.placed(found)
                del known[found]
            case ("regroup", int(group), str(order)):
                place: tuple[Group, str, float] = (GROUPS[group], order, 3.0)
                assert queue.regroup(lambda _, place=place: place, now) == []  # type: ignore[misc]
                known = dict.fromkeys(known, GROUPS[group])
        consistent(queue, known)
    assert set(drained(queue, now)) == set(known)
    assert (queue.requests, queue.bytes, queue.group_queues) == (0, 0, {})
    assert not queue.deadlines


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_those_without_an_instance_are_returned_and_stay_until_they_are_removed(order: str) -> None:
    queue = RequestQueue(TenantCounters())
    known = {queue.add(submission(n), GROUPS[n % 2], order, 3.0, NOW): GROUPS[n % 2] for n in range(10)}
    stranded = queue.regroup(
        lambda waiting: ((), order, 3.0) if known[waiting] == (A,) else ((B,), order, 3.0), NOW
    )
    assert set(stranded) == {waiting for waiting, group in known.items() if group == (A,)}
    assert queue.requests == 10
    for waiting in stranded:
        queue.remove(waiting)
    assert queue.requests == 5
    assert {waiting.group for waiting in waiting_of(queue)} == {(B,)}


def test_a_queue_has_room_up_to_both_bounds() -> None:
    queue = RequestQueue(TenantCounters())
    limits = LimitSettings(queue_requests=3, queue_bytes=100)
    assert queue.has_room(submission(0, 100), limits)
    assert not queue.has_room(submission(0, 101), limits)
    for number in range(3):
        assert queue.has_room(submission(number, 30), limits)
        queue.add(submission(number, 30), (A,), "fifo", 3.0, NOW)
    assert not queue.has_room(submission(3, 0), limits)
    queue.remove(waiting_of(queue)[0])
    assert queue.has_room(submission(3, 40), limits)
    assert not queue.has_room(submission(3, 41), limits)


def test_those_that_leave_for_another_are_out_of_the_queue() -> None:
    queue = RequestQueue(TenantCounters())
    limits = LimitSettings(queue_requests=4, queue_bytes=1000)
    known = {queue.add(submission(n, tenant="team-a"), (A,), "fifo", 3.0, NOW): (A,) for n in range(4)}
    assert queue.make_room(submission(9, tenant="team-a"), limits) is None  # it would displace itself
    consistent(queue, known)
    left = queue.make_room(submission(9, tenant="team-b"), limits)
    assert left
    assert all(waiting.submission.place is None for waiting in left)
    consistent(queue, {waiting: group for waiting, group in known.items() if waiting not in left})
    assert queue.has_room(submission(9, tenant="team-b"), limits)


def test_deadlines_are_those_of_the_requests_that_wait() -> None:
    queue = RequestQueue(TenantCounters())
    for number in range(6):
        queue.add(submission(number, arrived=NOW + number, deadline=number % 2 == 0), (A,), "fifo", 3.0, NOW)
    assert queue.deadlines.first_key() == NOW + 5
    first = next(waiting for waiting in waiting_of(queue) if waiting.request.request_id == "0")
    queue.remove(first)
    assert queue.deadlines.first_key() == NOW + 7
