"""The machine of a managed engine: every event in every state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_inference.engines.managed.events import (
    Adopted,
    Answered,
    Drained,
    Due,
    EngineEvent,
    Exited,
    FirstExited,
    Freed,
    Hung,
    KeeperLost,
    KeeperSilent,
    Launched,
    LoadWanted,
    NotLaunched,
    RestartWanted,
    Stalled,
    TurnCame,
    UnloadWanted,
)
from sage_inference.engines.managed.failures import EngineFailure, Retry
from sage_inference.engines.managed.machine import MOVES, Effect, Machine, ManagedState, Rules
from sage_inference.engines.managed.states import step


def failure(retry: Retry = Retry.COUNTED, **change: Any) -> EngineFailure:
    return EngineFailure("it broke", None, retry, change)


class World:
    """The surroundings of a machine: whether its process lives, and what was ordered. It checks each order."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.machine = Machine()
        self.now = 0.0
        self.alive = self.serves = False
        self.waiting = 0  # requests that wait for the engine
        self.orders: list[Effect] = []

    def send(self, event: EngineEvent) -> Sequence[Effect]:
        before = self.machine
        if isinstance(event, Adopted | KeeperSilent) and before.state is not ManagedState.OFF:
            return ()  # keepers are looked for before anything else
        if isinstance(event, Launched | NotLaunched) and event.run == before.run and not before.launching:
            return ()  # each launch is answered once
        if isinstance(event, Launched | Adopted):
            self.alive = True
        if isinstance(event, Exited | Freed) or (isinstance(event, KeeperLost) and event.run == before.run):
            self.alive = False  # lost: no longer ours
        self.machine, orders = step(before, event, self.rules, self.now)
        if isinstance(event, Exited) and event.run != before.run:
            self.alive = before.owned
        self._check(before, orders)
        self.orders += orders
        return orders

    def _check(self, before: Machine, orders: Sequence[Effect]) -> None:
        after = self.machine
        assert after.state is before.state or after.state in MOVES[before.state]
        for order in orders:
            if order is Effect.STOP:
                assert after.owned
                assert after.state is ManagedState.STOPPING
            if order is Effect.LAUNCH:
                assert not before.owned
                assert not before.launching
            if order is Effect.SERVE:
                assert after.owned
                assert after.state is ManagedState.READY
                self.serves = True
            if order is Effect.UNSERVE:
                self.serves = False
        if before.state in (ManagedState.STUCK, ManagedState.LOST):
            assert Effect.STOP not in orders
            assert Effect.DRAIN not in orders
        if after.owned or after.launching:
            assert after.state in (
                ManagedState.STARTING,
                ManagedState.READY,
                ManagedState.DRAINING,
                ManagedState.STOPPING,
            )
        if after.state in (ManagedState.READY, ManagedState.DRAINING):
            assert self.serves
            assert after.owned
        else:
            assert not self.serves
        if before.holds_requests and not after.holds_requests:
            assert Effect.REFUSE in orders  # no request waits for an engine that will not come
        if after.state in (ManagedState.STOPPING, ManagedState.DRAINING):
            assert after.due_at is not None
        if after.state is ManagedState.FAILED and after.holds_requests:
            assert after.due_at is not None
            assert after.due_at <= self.now + self.rules.longest_s

    @property
    def rested(self) -> ManagedState:
        return self.machine.state

    def settle(self, *, launches: bool = True, stops: bool = True) -> None:
        """Answer what was ordered, as a healthy machine would, until nothing moves."""
        for _ in range(40):
            m = self.machine
            match m.state:
                case ManagedState.WAITING:
                    self.send(TurnCame())
                case ManagedState.STARTING if m.launching:
                    self.send(Launched(m.run) if launches else NotLaunched(m.run, failure(Retry.NO)))
                case ManagedState.STARTING:
                    self.send(Answered(m.run))
                case ManagedState.DRAINING:
                    self.send(Drained(m.run))
                case ManagedState.STOPPING if m.launching:
                    self.send(Launched(m.run))
                case ManagedState.STOPPING if stops:
                    self.send(Exited(m.run, failure()))
                case ManagedState.STOPPING:
                    self.now = m.due_at or self.now
                    self.send(Due())
                case ManagedState.FAILED if m.due_at is not None:
                    self.now = m.due_at
                    self.send(Due())
                case _:
                    return
        raise AssertionError(f"does not come to rest: {self.machine}")


RETRIES = st.sampled_from(list(Retry))
FAILURES = st.builds(
    EngineFailure,
    st.just("it broke"),
    st.none(),
    RETRIES,
    st.dictionaries(st.sampled_from(["max_model_len", "dtype"]), st.integers(0, 2), max_size=1),
)


@st.composite
def events(draw: st.DrawFn) -> list[tuple[float, type[Any], int, EngineFailure]]:
    kinds = [
        LoadWanted,
        UnloadWanted,
        RestartWanted,
        TurnCame,
        Due,
        Adopted,
        KeeperSilent,
        Freed,
        Launched,
        NotLaunched,
        Answered,
        Stalled,
        Hung,
        Drained,
        FirstExited,
        Exited,
        KeeperLost,
    ]
    one = st.tuples(
        st.integers(0, 90), st.sampled_from(kinds), st.sampled_from([0, 0, 0, 0, -1, -2]), FAILURES
    )
    return draw(st.lists(one, max_size=40))


def made(kind: type[Any], run: int, failed: EngineFailure) -> EngineEvent:
    if kind in (Launched, Answered, Drained, FirstExited):
        return kind(run)  # type: ignore[no-any-return]
    if kind in (NotLaunched, Stalled, Hung, Exited, KeeperLost):
        return kind(run, failed)  # type: ignore[no-any-return]
    return kind(failed) if kind is KeeperSilent else kind()  # type: ignore[no-any-return]


def play(world: World, drawn: Iterable[tuple[float, type[Any], int, EngineFailure]]) -> None:
    for after_s, kind, late, failed in drawn:
        world.now += after_s
        if kind is Due and (world.machine.due_at is None or world.machine.due_at > world.now):
            continue
        world.send(made(kind, world.machine.run + late, failed))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events(), st.booleans())
def test_any_events_keep_the_promises(drawn: Any, restarts: bool) -> None:
    world = World(Rules(restarts=restarts))
    play(world, drawn)  # the world checks each step
    world.settle()
    at_rest = world.machine
    assert at_rest.state in (
        ManagedState.OFF,
        ManagedState.READY,
        ManagedState.FAILED,
        ManagedState.STUCK,
        ManagedState.LOST,
    )
    assert at_rest.state is not ManagedState.FAILED or not at_rest.holds_requests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events())
def test_an_unload_ends_every_owned_process(drawn: Any) -> None:
    world = World()
    play(world, drawn)
    world.send(UnloadWanted())
    world.settle()
    assert not world.machine.owned
    assert not world.machine.launching
    assert world.machine.state in (ManagedState.OFF, ManagedState.STUCK, ManagedState.LOST)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events())
def test_a_load_by_name_serves_unless_processes_are_beyond_reach(drawn: Any) -> None:
    world = World()
    play(world, drawn)
    world.send(LoadWanted())
    world.settle()
    assert world.machine.state in (ManagedState.READY, ManagedState.STUCK, ManagedState.LOST)


def test_fifty_loads_are_one_start() -> None:
    world = World()
    for _ in range(50):
        world.send(LoadWanted())
    world.send(TurnCame())
    for _ in range(50):
        world.send(LoadWanted())
    world.settle()
    for _ in range(50):
        world.send(LoadWanted())
    assert world.orders.count(Effect.LAUNCH) == 1
    assert world.machine.state is ManagedState.READY


def started(rules: Rules | None = None) -> World:
    world = World(rules)
    world.send(LoadWanted())
    world.settle()
    assert world.machine.state is ManagedState.READY
    return world


def test_five_failures_in_ten_minutes_are_the_last_ones() -> None:
    world = started()
    waits = []
    for _ in range(5):
        world.send(Exited(world.machine.run, failure()))
        due = world.machine.due_at
        waits.append(None if due is None else due - world.now)
        if due is not None:
            world.now = due
            world.settle()
    assert waits == [2, 4, 8, 16, None]
    assert world.machine.state is ManagedState.FAILED
    assert not world.machine.holds_requests
    world.send(LoadWanted(asked=False))
    assert world.machine.state is ManagedState.FAILED, "a request does not start it again"
    world.send(LoadWanted())
    world.settle()
    assert world.rested is ManagedState.READY


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events(), st.sampled_from([0, 0, -1]))
def test_a_hang_ends_an_engine_that_serves_and_nothing_else(drawn: Any, late: int) -> None:
    world = World()
    play(world, drawn)
    before, hung = world.machine, failure()
    orders = world.send(Hung(before.run + late, hung))
    if before.state is not ManagedState.READY or late:
        assert (world.machine, orders) == (before, ()), "only the process that serves can hang"
        return
    assert orders == (Effect.UNSERVE, Effect.STOP)
    assert (world.machine.state, world.machine.holds_requests) == (ManagedState.STOPPING, True)
    # The exit that was ordered has another cause in its log, and the hang is the one to report.
    world.send(Exited(before.run, failure(Retry.NO)))
    ended = world.machine
    assert (ended.state, ended.failures[-1]) == (ManagedState.FAILED, world.now)
    assert ended.failure is hung
    assert (ended.due_at is None) is (len(ended.failures) >= world.rules.most)
    if ended.due_at is not None:
        world.settle()
        assert world.rested is ManagedState.READY


def test_five_hangs_in_ten_minutes_are_the_last_ones() -> None:
    world = started()
    for number in range(1, 6):
        world.send(Hung(world.machine.run, failure()))
        world.settle()
        assert world.rested is (ManagedState.READY if number < 5 else ManagedState.FAILED)
    assert not world.machine.holds_requests


def test_a_hang_that_outlives_its_kill_is_left_alone() -> None:
    world = started()
    world.send(Hung(1, failure()))
    world.settle(stops=False)
    assert world.machine.state is ManagedState.STUCK


@pytest.mark.parametrize("order", [UnloadWanted(), RestartWanted(), LoadWanted()])
def test_an_order_during_the_stop_of_a_hung_engine_is_followed(order: EngineEvent) -> None:
    world = started()
    world.send(Hung(1, failure()))
    world.send(order)
    world.settle()
    expected = ManagedState.OFF if isinstance(order, UnloadWanted) else ManagedState.READY
    assert world.rested is expected


def test_failures_far_apart_never_end_the_retries() -> None:
    world = started()
    for _ in range(20):
        world.now += 200
        world.send(Exited(world.machine.run, failure()))
        assert world.machine.due_at is not None
        world.settle()


@pytest.mark.parametrize("retry", [Retry.AT_ONCE, Retry.OTHER_PORT])
def test_a_retry_at_once_does_not_go_on_for_ever(retry: Retry) -> None:
    world = started()
    for _ in range(8):
        if world.machine.state is ManagedState.FAILED:
            break
        world.send(Exited(world.machine.run, failure(retry)))
        if world.machine.due_at is not None:
            world.now = max(world.now, world.machine.due_at)
            world.send(Due())
            world.send(TurnCame())
            world.send(Launched(world.machine.run))
    assert world.machine.state is ManagedState.FAILED


def test_a_change_is_tried_once() -> None:
    world = World()
    world.send(LoadWanted())
    world.send(TurnCame())
    world.send(NotLaunched(1, failure(Retry.WITH_CHANGE, max_model_len=4096)))
    assert world.machine.change == {"max_model_len": 4096}
    assert world.machine.due_at == world.now
    world.send(Due())
    world.send(TurnCame())
    world.send(NotLaunched(2, failure(Retry.WITH_CHANGE, max_model_len=4096)))
    assert world.machine.due_at is None


@pytest.mark.parametrize("retry", [Retry.BACK_OFF, Retry.WHEN_MEMORY])
def test_a_cause_outside_of_the_engine_is_never_counted(retry: Retry) -> None:
    world = World()
    world.send(LoadWanted())
    for run in range(1, 20):
        world.send(TurnCame())
        world.send(NotLaunched(run, failure(retry)))
        assert world.machine.due_at is not None
        world.now = world.machine.due_at
        world.send(Due())
    assert world.machine.failures == ()


def test_an_unload_while_it_is_launched_stops_the_process_once_it_is_there() -> None:
    world = World()
    world.send(LoadWanted())
    world.send(TurnCame())
    assert world.send(UnloadWanted()) == (Effect.REFUSE,)
    assert world.send(Launched(1)) == (Effect.STOP,)
    assert Effect.GIVE_TURN in world.send(Exited(1, failure()))
    assert world.machine.state is ManagedState.OFF


def test_a_load_during_the_drain_of_an_unload_keeps_the_engine() -> None:
    world = started()
    world.send(UnloadWanted())
    assert world.send(LoadWanted()) == (Effect.SERVE,)
    assert world.machine.state is ManagedState.READY
    assert world.orders.count(Effect.LAUNCH) == 1


def test_a_load_during_a_stop_starts_it_afterwards() -> None:
    world = started()
    world.send(UnloadWanted())
    world.send(Drained(1))
    world.send(LoadWanted())
    world.settle()
    assert world.machine.state is ManagedState.READY
    assert world.machine.run == 2


def test_a_request_starts_no_engine_that_was_unloaded_by_name() -> None:
    world = started()
    world.send(UnloadWanted())
    world.send(LoadWanted(asked=False))
    world.settle()
    world.send(LoadWanted(asked=False))
    assert world.machine.state is ManagedState.OFF


def test_a_tree_that_outlives_its_kill_is_left_alone() -> None:
    world = started()
    world.send(RestartWanted())
    world.settle(stops=False)
    assert world.machine.state is ManagedState.STUCK
    orders = len(world.orders)
    world.send(LoadWanted())
    world.send(Due())
    assert world.orders[orders:] == []
    world.send(Freed())
    world.settle()
    assert world.rested is ManagedState.READY


def test_an_exit_that_nobody_ordered_is_a_failure_also_with_status_0() -> None:
    world = started()
    assert world.send(Exited(1, failure())) == (Effect.UNSERVE,)
    assert world.machine.state is ManagedState.FAILED
    assert world.machine.holds_requests


def test_an_exit_of_the_first_process_holds_requests_until_the_rest_is_gone() -> None:
    world = started()
    assert world.send(FirstExited(1)) == (Effect.UNSERVE, Effect.STOP)
    assert world.machine.state is ManagedState.STOPPING
    assert world.machine.holds_requests
    assert world.send(Exited(1, failure())) == (Effect.GIVE_TURN,)
    world.settle()
    assert world.machine.run == 2
    assert world.rested is ManagedState.READY
