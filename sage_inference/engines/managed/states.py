"""The states of a managed engine, and the moves between them. Pure: time comes with an event, effects are orders.

                     ┌──────────── retry ─────────────┐
                     ▼                                │
    OFF ─load─▶ WAITING ─turn─▶ STARTING ─exit─▶ FAILED
     ▲                             │  │                ▲
     │                     answered│  └─stall, unload┐ │exit
     │                             ▼                 │ │
     │                           READY ─unload─▶ DRAINING ─empty─▶ STOPPING ◀─ READY, if it hangs
     │                                                                │
     └────────────────────────── the tree is gone ────────────────────┘

``then`` is the state that follows STOPPING: OFF, WAITING or FAILED. A tree that outlives its SIGKILL is STUCK, and an engine
whose keeper does not answer is LOST. Neither is ever signalled again: both end when their processes are gone.

Two rules hold in every state. A process is stopped only while it is ``owned``: started or adopted in this run of the
machine. A new one is launched only when no other is owned or being launched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
from sage_inference.engines.managed.failure import EngineFailure, Retry
from sage_inference.engines.managed.machine import MOVES, Effect, Machine, ManagedState, Rules

_S = ManagedState
_OF_A_PROCESS = (
    Answered,
    Hung,
    Drained,
    FirstExited,
    Exited,
    KeeperLost,
)  # these mean nothing before a process is owned
Step = tuple[Machine, tuple[Effect, ...]]


def step(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """The next machine and its orders. An event that means nothing in a state changes nothing."""
    handler = _TABLE.get((machine.state, type(event)))
    if handler is None or getattr(event, "run", machine.run) != machine.run:
        return machine, ()
    if isinstance(event, _OF_A_PROCESS) and not machine.owned:
        return machine, ()
    after, orders = handler(machine, event, rules, now)
    if after.state is not machine.state:
        assert after.state in MOVES[machine.state], f"{machine.state} to {after.state}"
        after = replace(after, since=now)
        if machine.has_turn and not after.has_turn:
            orders = (Effect.GIVE_TURN, *orders)
    if machine.holds_requests and not after.holds_requests:
        orders = (*orders, Effect.REFUSE)
    return after, orders


# Handlers: what an event means in a state


def _wait(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, state=ManagedState.WAITING, due_at=None, kept=False), (Effect.TAKE_TURN,)


def _load(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """Start, and forget former failures if somebody asked for it by name."""
    assert isinstance(event, LoadWanted)
    if not event.asked and (machine.state is ManagedState.FAILED or machine.kept):
        return machine, ()  # a request does not shorten a back-off
    if event.asked:
        machine = replace(machine, failures=(), at_once=0, failure=None, change={})
    return _wait(machine, event, rules, now)


def _start_anew(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return _wait(_again(machine), event, rules, now)


def _launch(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    run = machine.run + 1
    return replace(machine, state=ManagedState.STARTING, run=run, launching=True, adopted=False), (
        Effect.LAUNCH,
    )


def _launched(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, launching=False, owned=True), ()


def _not_launched(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    assert isinstance(event, NotLaunched)
    return _fail(replace(machine, launching=False), event.failure, rules, now)


def _adopt(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    run = machine.run + 1
    return replace(machine, state=ManagedState.STARTING, run=run, owned=True, adopted=True, due_at=None), ()


def _found(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    assert isinstance(event, KeeperSilent)
    return replace(
        machine, state=ManagedState.LOST, then=ManagedState.OFF, failure=event.failure, due_at=None
    ), ()


def _serve(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, state=ManagedState.READY, failure=None, at_once=0, due_at=None), (Effect.SERVE,)


def _stalled(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    assert isinstance(event, Stalled)
    return _stop(replace(machine, failure=event.failure), ManagedState.FAILED, rules, now)


def _hung(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """End an engine that answers nobody. Its requests wait for its next process, as after a crash."""
    assert isinstance(event, Hung)
    after, orders = _stop(replace(machine, failure=event.failure), ManagedState.FAILED, rules, now)
    return after, (Effect.UNSERVE, *orders)


def _stop(machine: Machine, then: ManagedState, rules: Rules, now: float) -> Step:
    after = replace(machine, state=ManagedState.STOPPING, then=then, due_at=now + rules.stop_s)
    # A process that is being launched is stopped once it is there.
    return after, (Effect.STOP,) if machine.owned else ()


def _unload_start(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return _stop(replace(machine, failure=None, kept=True), ManagedState.OFF, rules, now)


def _restart_start(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return _stop(_again(machine), ManagedState.WAITING, rules, now)


def _again(machine: Machine) -> Machine:
    """As new: somebody ordered a restart."""
    return replace(machine, failures=(), at_once=0, failure=None, change={}, kept=False)


def _unload(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    after = replace(
        machine, state=ManagedState.DRAINING, then=ManagedState.OFF, kept=True, due_at=now + rules.drain_s
    )
    return after, (Effect.DRAIN,)


def _restart(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    after = replace(
        _again(machine), state=ManagedState.DRAINING, then=ManagedState.WAITING, due_at=now + rules.drain_s
    )
    return after, (Effect.DRAIN,)


def _drained(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    after, orders = _stop(machine, machine.then, rules, now)
    return after, (Effect.UNSERVE, *orders)


def _resume(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """A load during the drain of an unload: the engine is still there, so it goes on."""
    assert isinstance(event, LoadWanted)
    if machine.then is ManagedState.WAITING or (machine.kept and not event.asked):
        return machine, ()
    return replace(machine, state=ManagedState.READY, due_at=None, kept=False), (Effect.SERVE,)


def _then_start(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    if isinstance(event, LoadWanted) and not event.asked:
        # A request changes nothing where a failure decides on the next start, or the engine was unloaded by name.
        keeps = machine.then is ManagedState.FAILED or machine.kept
        return (machine if keeps else replace(machine, then=ManagedState.WAITING)), ()
    return replace(_again(machine), then=ManagedState.WAITING), ()


def _then_off(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, then=ManagedState.OFF, failure=None, kept=True), ()


def _off(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, state=ManagedState.OFF, failure=None, due_at=None, kept=True), (Effect.GIVE_TURN,)


def _stays_off(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    return replace(machine, then=ManagedState.OFF, kept=True), ()


def _later(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """Start when the processes that hold the memory are gone."""
    if isinstance(event, LoadWanted) and not event.asked and machine.kept:
        return machine, ()
    return replace(machine, then=ManagedState.WAITING, kept=False), ()


def _exited(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """The engine ended by itself."""
    assert isinstance(event, Exited)
    served = (Effect.UNSERVE,) if machine.state is ManagedState.READY else ()
    after, orders = _fail(replace(machine, owned=False), event.failure, rules, now)
    return after, (*served, *orders)


def _first_exited(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    """The engine serves no more. Its keeper ends the rest of the tree, and sooner by an order."""
    served = (Effect.UNSERVE,) if machine.state in (_S.READY, _S.DRAINING) else ()
    then = machine.then if machine.state is _S.DRAINING else _S.FAILED
    after = replace(machine, state=_S.STOPPING, then=then, failure=None, due_at=now + rules.stop_s)
    return after, (*served, Effect.STOP)


def _drain_exited(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    after, orders = _settle(replace(machine, owned=False), rules, now)
    return after, (Effect.UNSERVE, *orders)


def _gone(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    if isinstance(event, Exited) and machine.failure is None:  # otherwise the reason of the stop is the cause
        machine = replace(machine, failure=event.failure)
    return _settle(replace(machine, owned=False, launching=False), rules, now)


def _stop_launched(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    after = replace(machine, launching=False, owned=True, due_at=now + rules.stop_s)
    return after, (Effect.STOP,)


def _settle(machine: Machine, rules: Rules, now: float) -> Step:
    """No process is left: move where the stop should lead."""
    if machine.then is ManagedState.WAITING:
        restarts = machine.restarts + 1
        after = replace(machine, state=ManagedState.WAITING, due_at=None, restarts=restarts, failure=None)
        return after, (Effect.TAKE_TURN,)
    if machine.then is ManagedState.FAILED:
        assert machine.failure is not None
        return _fail(machine, machine.failure, rules, now)
    return replace(machine, state=ManagedState.OFF, due_at=None, failure=None), ()


def _overdue(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    if machine.launching:  # nothing to give up yet: the launch ends by itself, and soon
        return replace(machine, due_at=now + rules.stop_s), ()
    then = ManagedState.WAITING if machine.then is ManagedState.WAITING else ManagedState.OFF
    return replace(machine, state=ManagedState.STUCK, then=then, owned=False, due_at=None), ()


def _lost(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    assert isinstance(event, KeeperLost)
    served = (Effect.UNSERVE,) if machine.state in (ManagedState.READY, ManagedState.DRAINING) else ()
    then = ManagedState.OFF if machine.kept or not rules.restarts else ManagedState.WAITING
    after = replace(
        machine, state=ManagedState.LOST, then=then, owned=False, failure=event.failure, due_at=None
    )
    return after, served


def _freed(machine: Machine, event: EngineEvent, rules: Rules, now: float) -> Step:
    if machine.then is not ManagedState.WAITING:
        return replace(machine, state=ManagedState.OFF, failure=None, due_at=None), ()
    return _wait(machine, event, rules, now)


def _fail(machine: Machine, failure: EngineFailure, rules: Rules, now: float) -> Step:
    """Decide on the retry: its time, and whether it counts."""
    retry = failure.retry
    recent = tuple(at for at in machine.failures if now - at < rules.within_s)
    at_once, change = machine.at_once, dict(machine.change)
    if retry is Retry.WITH_CHANGE:
        # The same change a second time would not help.
        retry = Retry.NO if all(change.get(k) == v for k, v in failure.change.items()) else retry
        change |= failure.change
    if retry in _AT_ONCE:
        at_once += 1
        retry = retry if at_once <= rules.most_at_once else Retry.COUNTED
    if retry is Retry.COUNTED:
        recent = (*recent, now)
    wait_s = 0.0 if retry in _AT_ONCE else _back_off(rules, max(len(recent), 1))
    if retry in _PATIENT:
        wait_s = _back_off(rules, machine.restarts + 1)
    due_at: float | None = now + wait_s
    if retry is Retry.NO or not rules.restarts or len(recent) >= rules.most:
        due_at = None
    after = replace(
        machine,
        state=ManagedState.FAILED,
        failure=failure,
        failures=recent,
        at_once=at_once,
        change=change,
        due_at=due_at,
        owned=False,
        restarts=machine.restarts + (due_at is not None),
    )
    return after, ()


_AT_ONCE = frozenset({Retry.AT_ONCE, Retry.OTHER_PORT, Retry.WITH_CHANGE})
_PATIENT = frozenset({Retry.BACK_OFF, Retry.WHEN_MEMORY})  # the engine is not at fault, so none is counted


def _back_off(rules: Rules, failures: int) -> float:
    return min(rules.longest_s, rules.first_s * 2.0 ** min(failures - 1, 16))


_Handler = Callable[[Machine, Any, Rules, float], Step]
_TABLE: dict[tuple[ManagedState, type[Any]], _Handler] = {
    (_S.OFF, LoadWanted): _load,
    (_S.OFF, RestartWanted): _start_anew,
    (_S.OFF, UnloadWanted): _stays_off,
    (_S.OFF, Adopted): _adopt,
    (_S.OFF, KeeperSilent): _found,
    (_S.WAITING, TurnCame): _launch,
    (_S.WAITING, UnloadWanted): _off,
    (_S.STARTING, Launched): _launched,
    (_S.STARTING, NotLaunched): _not_launched,
    (_S.STARTING, Answered): _serve,
    (_S.STARTING, Stalled): _stalled,
    (_S.STARTING, UnloadWanted): _unload_start,
    (_S.STARTING, RestartWanted): _restart_start,
    (_S.STARTING, FirstExited): _first_exited,
    (_S.STARTING, Exited): _exited,
    (_S.STARTING, KeeperLost): _lost,
    (_S.READY, UnloadWanted): _unload,
    (_S.READY, RestartWanted): _restart,
    (_S.READY, Hung): _hung,
    (_S.READY, FirstExited): _first_exited,
    (_S.READY, Exited): _exited,
    (_S.READY, KeeperLost): _lost,
    (_S.DRAINING, Drained): _drained,
    (_S.DRAINING, Due): _drained,
    (_S.DRAINING, LoadWanted): _resume,
    (_S.DRAINING, RestartWanted): _then_start,
    (_S.DRAINING, UnloadWanted): _then_off,
    (_S.DRAINING, FirstExited): _first_exited,
    (_S.DRAINING, Exited): _drain_exited,
    (_S.DRAINING, KeeperLost): _lost,
    (_S.STOPPING, LoadWanted): _then_start,
    (_S.STOPPING, RestartWanted): _then_start,
    (_S.STOPPING, UnloadWanted): _then_off,
    (_S.STOPPING, Launched): _stop_launched,
    (_S.STOPPING, NotLaunched): _gone,
    (_S.STOPPING, Exited): _gone,
    (_S.STOPPING, Due): _overdue,
    (_S.STOPPING, KeeperLost): _lost,
    (_S.FAILED, Due): _wait,
    (_S.FAILED, LoadWanted): _load,
    (_S.FAILED, RestartWanted): _start_anew,
    (_S.FAILED, UnloadWanted): _off,
    (_S.STUCK, Freed): _freed,
    (_S.STUCK, UnloadWanted): _stays_off,
    (_S.STUCK, LoadWanted): _later,
    (_S.STUCK, RestartWanted): _later,
    (_S.LOST, Freed): _freed,
    (_S.LOST, UnloadWanted): _stays_off,
    (_S.LOST, LoadWanted): _later,
    (_S.LOST, RestartWanted): _later,
}
