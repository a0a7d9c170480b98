"""A full queue is divided: who fills it displaces itself first, and who holds no more than a share is safe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.shares import Shares
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import RequestPriority
from tests.control_plane.parts import Clock, Submitted, configure, instance, manager, request
from tests.support.cpu import cpu_time

LOW, NORMAL, CRITICAL = RequestPriority.LOW, RequestPriority.NORMAL, RequestPriority.CRITICAL


class Desk:
    """A manager whose only slot is taken for good, and what becomes of those who come."""

    def __init__(self, requests: int, size: int = 10**9, weights: dict[str, float] | None = None) -> None:
        self.manager: Scheduler = manager(instance("a", 1), clock=Clock(), queue=requests)
        limits = LimitSettings(queue_requests=requests, queue_bytes=size)
        configure(self.manager, limits=limits, weights=weights or {})
        self.number = 0
        self.manager.submit(Submitted(request("first", tenant="first")))
        self.came: list[Submitted] = []

    def comes(self, tenant: str, size: int = 10, priority: RequestPriority = NORMAL) -> Submitted:
        self.number += 1
        submission = Submitted(request(self.number, tenant=tenant, priority=priority), size)
        self.came.append(submission)
        try:
            self.manager.submit(submission)
        except Rejection as refusal:
            assert submission.refusal is None
            submission.refusal = refusal
        return submission

    def waiting(self, tenant: str | None = None) -> list[Submitted]:
        return [t for t in self.came if t.refusal is None and tenant in (None, t.request.tenant)]


def test_the_newest_of_the_tenant_that_has_the_most_goes() -> None:
    desk = Desk(5)
    loud = [desk.comes("loud") for _ in range(5)]
    assert all(t.refusal is None for t in loud)
    quiet = desk.comes("quiet")
    assert quiet.refusal is None
    assert [t.refusal is not None for t in loud] == [False] * 4 + [True]
    refusal = loud[4].refusal
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_s is not None) == (Reason.QUEUE_FULL, True)
    assert desk.comes("loud").refusal is not None  # it has the most


def test_one_tenant_alone_is_refused_as_it_comes() -> None:
    desk = Desk(3)
    first = [desk.comes("only", priority=LOW) for _ in range(3)]
    assert desk.comes("only", priority=CRITICAL).refusal is not None
    assert all(t.refusal is None for t in first)


def test_equals_do_not_push_each_other_out_for_ever() -> None:
    desk = Desk(4)
    for tenant in "ababab":
        desk.comes(tenant)
    assert [len(desk.waiting(t)) for t in "ab"] == [2, 2]
    assert desk.comes("a").refusal is not None
    assert desk.comes("b").refusal is not None
    assert desk.comes("c").refusal is None


def test_the_least_important_of_a_tenant_goes_first_and_priority_does_not_save_the_tenant() -> None:
    desk = Desk(4)
    submissions = [desk.comes("loud", priority=p) for p in (LOW, CRITICAL, LOW, CRITICAL)]
    for _ in range(2):
        assert desk.comes("quiet", priority=LOW).refusal is None
    assert [t.refusal is None for t in submissions] == [False, True, False, True]
    third = desk.comes("third", priority=LOW)
    assert third.refusal is None
    assert len(desk.waiting("loud")) + len(desk.waiting("quiet")) == 3


def test_weights_divide() -> None:
    desk = Desk(9, weights={"double": 2.0})
    for _ in range(12):
        desk.comes("double")
    for _ in range(12):
        desk.comes("single")
    assert [len(desk.waiting(t)) for t in ("double", "single")] == [6, 3]


def test_bytes_are_divided_as_well() -> None:
    desk = Desk(100, size=1000)
    big = [desk.comes("big", 300) for _ in range(3)]
    small = [desk.comes("small", 10) for _ in range(20)]
    assert all(t.refusal is None for t in small)
    assert [t.refusal is None for t in big] == [True, True, False]
    assert desk.comes("big", 300).refusal is not None


def test_several_go_where_one_is_too_little_and_nobody_where_all_are() -> None:
    desk = Desk(100, size=1000)
    small = [desk.comes("small", 100) for _ in range(10)]
    assert desk.comes("big", 450).refusal is None
    assert [t.refusal is None for t in small] == [True] * 5 + [False] * 5
    before = len(desk.waiting())
    assert desk.comes("huge", 900).refusal is not None  # it would hold more than anybody
    assert len(desk.waiting()) == before


def test_what_was_sent_is_never_displaced() -> None:
    desk = Desk(2)
    for _ in range(2):
        assert desk.comes("first").refusal is None
    assert desk.comes("quiet").refusal is None
    assert len(desk.waiting("first")) == 1
    assert desk.manager.registry.instances["a"].active_requests == 1


def test_a_queue_that_may_hold_nobody_holds_nobody() -> None:
    desk = Desk(0)
    assert desk.comes("a").refusal is not None


def test_a_bound_that_was_lowered_has_no_more_leave_than_come() -> None:
    desk = Desk(20, size=10_000)
    for _ in range(20):
        desk.comes("loud", 100)
    configure(desk.manager, limits=LimitSettings(queue_requests=5, queue_bytes=300))
    assert desk.comes("loud", 100).refusal is not None
    for left in range(19, 16, -1):
        assert desk.comes("quiet", 100).refusal is None
        assert len(desk.waiting("loud")) == left


WEIGHTS = {"b": 2.0, "c": 0.5}
COMES = st.tuples(st.sampled_from("aabcd"), st.integers(1, 60), st.sampled_from(RequestPriority))


@settings(max_examples=300, deadline=None)
@given(
    bound=st.integers(1, 9),
    size=st.integers(40, 200),
    events=st.lists(st.one_of(COMES, st.integers(0, 99)), max_size=60),
)
def test_laws(bound: int, size: int, events: list[tuple[str, int, RequestPriority] | int]) -> None:
    desk = Desk(bound, size, WEIGHTS)
    m = desk.manager
    for event in events:
        before = desk.waiting()
        if isinstance(event, int):  # somebody leaves
            if before:
                gone = before[event % len(before)]
                m.withdraw(gone)
                desk.came.remove(gone)
            continue
        tenant, length, priority = event
        submission = desk.comes(tenant, length, priority)
        assert m.queued == len(desk.waiting()) <= bound
        assert m.queued_bytes == sum(t.size for t in desk.waiting()) <= size
        names = {t.request.tenant for t in before} | {tenant}
        whole = sum(WEIGHTS.get(name, 1.0) for name in names)

        def has_its_share(name: str, submissions: list[Submitted], whole: float = whole) -> bool:
            mine = [t for t in submissions if t.request.tenant == name]
            share = WEIGHTS.get(name, 1.0) / whole
            return len(mine) <= bound * share and sum(t.size for t in mine) <= size * share

        if has_its_share(tenant, [*before, submission]):
            assert submission.refusal is None
        for other in before:
            if other.refusal is not None:
                assert submission.refusal is None  # it made room for somebody
                assert other.request.tenant != tenant
                assert not has_its_share(other.request.tenant, before)


@pytest.mark.parametrize("tenants", [1, 64, 4000])
def test_a_full_queue_costs_no_walk_through_it(tenants: int) -> None:
    shares: Shares[int] = Shares(TenantCounters())
    for number in range(8000):
        shares.add(number, str(number % tenants), NORMAL, 100)
    with cpu_time() as ten:
        for _ in range(10):
            shares.displaced("new", 100, 1, 0)
    assert ten.seconds / 10 < 0.1
    with cpu_time() as large:
        shares.displaced("new", 1, 0, 100 * 500)  # five hundred have to go
    assert large.seconds < 0.2
