"""Who is next in a lane: by order, by tenant, by age."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.cost import DECODE_TOKENS
from sage_inference.control_plane.queue.ageing import DEFERRED, work_of
from sage_inference.control_plane.queue.heap import Heap
from sage_inference.control_plane.queue.orders import ORDERS
from sage_inference.control_plane.queue.request_queue import RequestQueue
from sage_inference.control_plane.submission import Waiting
from sage_inference.types import RequestPriority, SchedulingRequest
from tests.control_plane.parts import Submitted, instance, request

CRITICAL, NORMAL, LOW = RequestPriority.CRITICAL, RequestPriority.NORMAL, RequestPriority.LOW
GROUP = (instance("a"),)


def order_of(
    order: str,
    requests: Iterable[SchedulingRequest],
    now: float,
    counters: TenantCounters | None = None,
    charge: float = 0,
) -> list[str]:
    """The ids in the order of their being placed, all at ``now``; each costs its tenant ``charge``."""
    counters = counters or TenantCounters()
    queue = RequestQueue(counters)
    for each in requests:
        queue.add(Submitted(each), GROUP, order, each.prompt_tokens * 0.03, each.arrived)
    found = []
    while group_queue := queue.group_queue(GROUP, order):
        waiting = group_queue.next(now)
        assert waiting is not None
        found.append(waiting.request.request_id)
        counters.charge(waiting.request.tenant, charge)
        queue.remove(waiting)
        group_queue.placed(waiting)
    assert (queue.requests, queue.bytes, queue.group_queues) == (0, 0, {})
    return found


def test_fifo_is_by_arrival() -> None:
    assert order_of("fifo", [request("b", arrived=2), request("a", arrived=1)], 3) == ["a", "b"]


def test_priority_goes_first_until_ten_seconds_of_waiting_make_up_for_a_level() -> None:
    early_low = request("low", arrived=0, priority=LOW)
    soon, late = request("soon", arrived=9, priority=NORMAL), request("late", arrived=11, priority=NORMAL)
    assert order_of("priority", [early_low, soon, late], 12) == ["soon", "low", "late"]


def test_slo_aware_takes_the_nearest_deadline_and_the_late_last() -> None:
    late = request("late", arrived=0)
    near, far = request("near", arrived=9, deadline_ms=3000), request("far", arrived=8.9, deadline_ms=9000)
    batch = request("batch", arrived=1, priority=LOW)
    assert order_of("slo_aware", [late, far, batch, near], 9.5) == ["near", "far", "batch", "late"]


def test_adaptive_takes_the_shortest_first_while_it_can_be_in_time() -> None:
    """20,000 tokens take 600 ms: of two seconds' deadline 1.4 are left."""
    long, short = (
        request("long", 20_000, arrived=0, deadline_ms=2000),
        request("short", 10, arrived=0.5, deadline_ms=2000),
    )
    assert order_of("slo_aware", [long, short], 0.6) == ["long", "short"]
    assert order_of("adaptive", [long, short], 0.6) == ["short", "long"]
    longer = request("longer", 30_000, arrived=1.0, deadline_ms=2000)
    assert order_of("adaptive", [long, longer], 1.45) == ["longer", "long"]  # long cannot be in time any more


def test_a_long_prompt_of_a_class_with_a_near_deadline_goes_before_short_ones_of_background() -> None:
    long, batch = request("long", 30_000, arrived=0.05), request("batch", 10, arrived=0, priority=LOW)
    assert order_of("adaptive", [batch, long], 0.1) == ["long", "batch"]
    waited = request("waited", 10, arrived=-25.0, priority=LOW)
    assert order_of("adaptive", [waited, long], 0.06) == ["waited", "long"]


def test_the_late_go_by_arrival() -> None:
    late = [request(str(n), arrived=float(n), priority=LOW if n % 2 else NORMAL) for n in range(6)]
    assert order_of("adaptive", late, 100) == [str(n) for n in range(6)]


def test_among_the_late_a_long_prompt_goes_behind_short_ones_that_came_a_little_later() -> None:
    """20,000 tokens take 600 ms: 300 times that is 180 seconds; 10,000 take 300 ms, and so come 90 seconds later."""
    late = [
        request("long", 20_000, arrived=0.0),
        request("80 s", 10_000, arrived=80.0),
        request("100 s", 10_000, arrived=100.0),
    ]
    assert order_of("adaptive", late, 102) == ["80 s", "long", "100 s"]


def test_cheap_prompts_that_are_late_go_before_long_ones() -> None:
    late = [request("long", 20_000, arrived=0.0), request("cheap", 1000, arrived=90.0)]
    assert order_of("adaptive", late, 100) == ["cheap", "long"]


def predicted(prompt_ms: dict[str, float]) -> RequestQueue:
    return RequestQueue(TenantCounters(), lambda request, group: prompt_ms[request.request_id])


def next_id(queue: RequestQueue, now: float) -> str:
    waiting = queue.group_queues[GROUP, "adaptive"].next(now)
    assert waiting is not None
    return waiting.request.request_id


def test_a_late_prompt_that_was_cached_meanwhile_is_cheap() -> None:
    prompt_ms = {"a": 400.0, "b": 500.0}
    queue = predicted(prompt_ms)
    for name in prompt_ms:
        queue.add(Submitted(request(name, arrived=0.0)), GROUP, "adaptive", prompt_ms[name], 1.5)
    assert next_id(queue, 2.0) == "a"
    prompt_ms["b"] = 3.0
    assert next_id(queue, 2.4) == "a"  # predicted a moment ago
    assert next_id(queue, 2.6) == "b"
    prompt_ms["b"] = 500.0  # and lost again
    assert next_id(queue, 4.0) == "a"


def test_a_prompt_that_was_cached_meanwhile_is_in_time_for_longer() -> None:
    prompt_ms = {"a": 900.0, "b": 900.0}
    queue = predicted(prompt_ms)
    for name in prompt_ms:
        queue.add(Submitted(request(name, arrived=0.0)), GROUP, "adaptive", prompt_ms[name], 0.0)
    prompt_ms["b"] = 3.0
    group_queue = queue.group_queues[GROUP, "adaptive"]
    assert next_id(queue, 0.5) == "b"
    assert {each.request.request_id: each.overdue for each in group_queue.everyone()} == {
        "a": True,
        "b": False,
    }
    assert next_id(queue, 0.998) == "b"
    assert {each.request.request_id: each.overdue for each in group_queue.everyone()} == {
        "a": True,
        "b": True,
    }


def test_a_late_request_that_is_due_goes_next_after_four_times_its_work() -> None:
    """It is due after three times its second to the first token."""
    late = [request("old", 733, arrived=0.0), *(request(n, 233, arrived=0.5) for n in range(20))]
    assert order_of("adaptive", late, 2.99)[-1] == "old"
    assert order_of("adaptive", late, 3.0).index("old") == 8


def test_a_prompt_that_is_never_in_time_is_due_a_hundred_times_its_excess_later() -> None:
    """40,000 tokens take 1.2 s, and so are due 23 s after the arrival; 20,000 take 0.6 s, and are due after 3 s."""
    dear, long = request("dear", 40_000, arrived=0.0), request("long", 20_000, arrived=19.8)
    work = [request(n, 10_000, arrived=20.5) for n in range(40)]
    assert order_of("adaptive", [dear, *work], 22.9)[-1] == "dear"
    found = order_of("adaptive", [dear, long, *work], 23.1)
    assert found.index("long") == 8  # due first, though it came later
    assert found.index("dear") == 8 + 17


def test_a_deadline_of_the_caller_moves_the_time_when_a_request_is_due() -> None:
    far = request("far", 20_000, arrived=0.0, deadline_ms=2000.0)
    work = [request(n, 10_000, arrived=3.0) for n in range(20)]
    assert order_of("adaptive", [far, *work], 5.9)[-1] == "far"
    assert order_of("adaptive", [far, *work], 6.1).index("far") == 8


@given(
    order=st.sampled_from(["adaptive", "slo_aware"]),
    waiting=st.lists(st.tuples(st.floats(0, 50), st.integers(1, 40_000)), min_size=1, max_size=5),
    flood=st.lists(st.tuples(st.integers(4000, 20_000), st.sampled_from("xy")), min_size=1, max_size=9),
)
def test_a_flood_delays_no_due_request_beyond_a_bound_of_the_work_due_before_it(
    order: str, waiting: list[tuple[float, int]], flood: list[tuple[int, str]]
) -> None:
    """Requests in time come without end. Of those that are due, each is placed within five times the work due with it."""
    queue, now = RequestQueue(TenantCounters()), 1000.0
    due = [request(f"due {n}", tokens, arrived=arrived) for n, (arrived, tokens) in enumerate(waiting)]
    for each in due:
        queue.add(Submitted(each), GROUP, order, each.prompt_tokens * 0.03, now)
    largest = max(tokens for tokens, _ in flood) + DECODE_TOKENS
    bound = sum(DEFERRED.n * work_of(each) + largest for each in due)
    placed, left, number = 0, len(due), 0
    while left:
        tokens, tenant = flood[number % len(flood)]
        number += 1
        fresh = request(f"fresh {number}", tokens, arrived=now, tenant=tenant)
        queue.add(Submitted(fresh), GROUP, order, tokens * 0.03, now)
        group_queue = queue.group_queues[GROUP, order]
        first = group_queue.next(now)
        assert first is not None
        queue.remove(first)
        group_queue.placed(first)
        placed += work_of(first.request)
        left -= first.request in due
        assert placed <= bound


def test_a_request_that_had_its_turn_by_ageing_and_stands_back_leaves_no_trace() -> None:
    """Its turn came while it was overdue, its instance was closed, and another one got the next turn."""
    queue = predicted({"old": 2000.0, **{str(n): 500.0 for n in range(40)}})
    late = [request("old", 733, arrived=0.0), *(request(n, 733, arrived=0.5) for n in range(40))]
    for each in late:
        queue.add(Submitted(each), GROUP, "adaptive", 500.0, 0.5)
    group_queue = queue.group_queues[GROUP, "adaptive"]
    now, turns = 200.0, list[Waiting]()
    while len(turns) < 2:
        first = group_queue.next(now)
        assert first is not None
        if first.overdue:
            queue.remove(first)
            group_queue.placed(first)
        else:  # by ageing
            turns.append(first)
            group_queue.reserve(first, GROUP[0], now + 1.0)
    old = turns[0]
    now += 2.0
    group_queue.next(now)  # the reservations end
    assert group_queue.may_stand_back(old)
    group_queue.stand_back(old, now)
    queue.remove(old)
    for _ in range(200):
        now += 10.0
        group_queue.next(now)
    assert old not in group_queue.everyone()
    assert len(group_queue.everyone()) == queue.requests


@given(
    work=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 3000), st.floats(0, 3000)), min_size=1, max_size=30
    ),
    steps=st.lists(st.floats(0.01, 3.0), max_size=20),
)
def test_predictions_that_change_lose_nobody(
    work: list[tuple[float, float, float]], steps: list[float]
) -> None:
    prompt_ms = {str(n): first for n, (_, first, _) in enumerate(work)}
    queue = predicted(prompt_ms)
    for name, (arrived, first, _) in enumerate(work):
        queue.add(Submitted(request(name, arrived=arrived)), GROUP, "adaptive", first, arrived)
    prompt_ms.update({str(n): then for n, (_, _, then) in enumerate(work)})
    now = 5.0
    for step in steps:
        now += step
        queue.group_queues[GROUP, "adaptive"].next(now)
    names = set()
    while group_queue := queue.group_queue(GROUP, "adaptive"):
        waiting = group_queue.next(now)
        assert waiting is not None
        names.add(waiting.request.request_id)
        queue.remove(waiting)
    assert names == set(prompt_ms)
    assert queue.requests == 0


def test_a_tenant_that_was_served_most_gets_an_eighth_once_its_request_waited_ten_times_its_slo() -> None:
    for now, place in ((9.9, 20), (10.1, 7)):
        counters = TenantCounters()
        counters.charge("served", 1_000_000)
        old = request("old", arrived=0, tenant="served")
        fresh = [request(n, arrived=9.5, tenant="fresh") for n in range(20)]
        assert order_of("fifo", [*fresh, old], now, counters).index("old") == place


def test_the_tenant_served_least_is_next_and_weights_divide() -> None:
    counters = TenantCounters({"heavy": 2.0})
    mixed = [request(f"{t}{n}", arrived=n, tenant=t) for n in range(6) for t in ("heavy", "light")]
    found = order_of("fifo", mixed, 7, counters, charge=100)
    assert sum(name.startswith("heavy") for name in found[:6]) == 4


def test_a_tenant_back_from_idle_is_lifted_to_the_least_that_wait() -> None:
    counters = TenantCounters()
    counters.charge("busy", 5000)
    queue = RequestQueue(counters)
    queue.add(Submitted(request("b", tenant="busy")), GROUP, "fifo", 0, 0)
    queue.add(Submitted(request("n", tenant="new")), GROUP, "fifo", 0, 0)
    assert counters.of("new") == 5000


def test_counters_of_invented_tenants_do_not_fill_memory() -> None:
    counters = TenantCounters()
    for number in range(20_000):
        counters.charge(str(number), 1)
    assert len(counters._served) <= 4096


WORK = st.lists(
    st.tuples(
        st.floats(0, 60), st.sampled_from(RequestPriority), st.sampled_from("xyz"), st.integers(0, 20_000)
    ),
    max_size=30,
)


@given(order=st.sampled_from(sorted(ORDERS)), work=WORK, now=st.floats(60, 200))
def test_everybody_is_placed_once_and_a_late_one_never_before_one_in_time(
    order: str, work: list[tuple[float, RequestPriority, str, int]], now: float
) -> None:
    requests = [
        request(n, tokens, arrived=arrived, priority=priority)
        for n, (arrived, priority, _, tokens) in enumerate(sorted(work, key=lambda w: w[0]))
    ]
    found = order_of(order, requests, now)
    assert sorted(found) == sorted(r.request_id for r in requests)
    if order == "fifo":
        assert found == [r.request_id for r in requests]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80))
def test_a_heap_gives_the_least_of_those_that_did_not_leave(steps: list[tuple[int, bool]]) -> None:
    heap: Heap[int] = Heap()
    places = []
    for number, (key, leaves) in enumerate(steps):
        places.append((key, number, heap.push(key, number)))
        if leaves:
            gone = places.pop(len(places) // 2)
            heap.leave(gone[2])
            heap.leave(gone[2])
            assert gone[2].entry is None
    assert sorted(heap) == sorted(number for _, number, _ in places)
    assert len(heap) == len(places)
    assert [heap.pop() for _ in places] == [number for _, number, _ in sorted(places, key=lambda p: p[:2])]
    assert (heap.first(), heap.first_key()) == (None, float("inf"))


def test_a_queue_is_bounded_by_count_and_bytes() -> None:
    queue, limits = RequestQueue(TenantCounters()), LimitSettings(queue_requests=2, queue_bytes=25)
    queue.add(Submitted(request(0), 10), GROUP, "fifo", 0, 0)
    assert queue.has_room(Submitted(request(1), 15), limits)
    assert not queue.has_room(Submitted(request(1), 16), limits)
    queue.add(Submitted(request(1), 1), GROUP, "fifo", 0, 0)
    assert not queue.has_room(Submitted(request(2), 0), limits)
