"""The supervisor of one engine: its only writer. It takes events from an inbox, moves the machine, and does what follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.detect import Detected
from sage_inference.engines.managed import events, learned, running
from sage_inference.engines.managed.failure import EngineFailure
from sage_inference.engines.managed.gpus import gpus
from sage_inference.engines.managed.hang import Silence
from sage_inference.engines.managed.machine import Effect, Machine, ManagedState, Rules
from sage_inference.engines.managed.running import Neighbours, RunningEngine, StartError
from sage_inference.engines.managed.states import step
from sage_inference.engines.managed.turns import ALL, Turns
from sage_inference.engines.managed.watch import EngineWatch
from sage_inference.engines.patience import Patience
from sage_inference.engines.query_clients import QueryClients
from sage_inference.keeper import files
from sage_inference.keeper.client import KeeperError, LostKeeperError
from sage_inference.wire.isolation import report

log = logging.getLogger("sage_inference.managed")

FIRST_S = 2.0  # the back-off after one failure
_KILL_S = 15.0  # beyond the grace, until a tree that was killed counts as stuck
_REST_S = 1.0  # for the processes that an engine leaves which ended by itself
_LOOK_S = 5.0  # between two looks at processes that are stuck or lost
_DRAIN_LOOK_S = 0.05

T = TypeVar("T")


class Service(Protocol):
    """The gateway's side of an engine."""

    def serve(self, engine: EngineSupervisor, detected: Detected) -> None:
        """Give the engine requests, also again after ``drain``."""

    def drain(self, engine: EngineSupervisor) -> None: ...

    def unserve(self, engine: EngineSupervisor) -> None: ...

    def refuse(self, engine: EngineSupervisor) -> None:
        """End the requests that wait for the engine."""

    def in_flight(self, engine: EngineSupervisor) -> int: ...

    def reports_end(self, engine: EngineSupervisor) -> bool:
        """Whether the engine reports that it shuts down."""

    def silence(self, engine: EngineSupervisor) -> Silence | None:
        """A look at the engine if it answers neither health checks nor requests."""


@dataclass(slots=True)
class EngineContext:
    """The common surroundings of one gateway's engines. ``passive``: another gateway gives the orders."""

    managed: ManagedSettings
    state_dir: Path
    environ: Mapping[str, str]
    service: Service
    queries: QueryClients
    patience: Patience
    threads: Executor
    turns: Turns
    drain_s: float
    question_s: float
    neighbours: Callable[[], Neighbours]
    passive: bool = False

    async def thread(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(call, *arguments, **named))


class EngineSupervisor:
    """``origin``: whether the engine is declared in the configuration, or for this run by a flag or a load."""

    def __init__(
        self, name: str, entry: ManagedEngineSettings, context: EngineContext, origin: str = "config"
    ) -> None:
        self.name = name
        self.entry = entry
        self.origin = origin
        self._context = context
        self.directory = context.state_dir / files.FOLDER / name
        self.machine = Machine(since=time.monotonic())
        self.running: RunningEngine | None = None
        self.detected: Detected | None = None
        self.outdated = False
        self.coming = False  # declared just now, and loaded in a moment
        self.leaving = False  # not declared any more: it ends, and then this supervisor does
        self.expected_s: float | None = None
        self.watch: EngineWatch | None = None
        self.gpus: tuple[str, ...] = ()
        self.memory_mb: int | None = None
        self.lacks_chat_template = False
        self._inbox: asyncio.Queue[events.EngineEvent] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    # Orders, from anywhere on the loop

    def post(self, event: events.EngineEvent) -> None:
        self._inbox.put_nowait(event)

    def load(self, *, asked: bool) -> None:
        self.post(events.LoadWanted(asked))

    def unload(self) -> None:
        self.post(events.UnloadWanted())

    def restart(self) -> None:
        self.post(events.RestartWanted())

    def leave(self) -> None:
        """End the engine because it is not declared any more."""
        self.leaving = True
        self.unload()

    def attach(self) -> None:
        """This gateway gives the orders from now on."""
        if self.machine.state is ManagedState.WAITING:
            self._take_turn()

    # Facts

    @property
    def context(self) -> EngineContext:
        return self._context

    @property
    def state(self) -> ManagedState:
        return self.machine.state

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which requests may ask for its model."""
        return self.entry.served_names or (self.entry.model,)

    @property
    def is_a_mistake(self) -> bool:
        """Whether a load by name made it, its start failed, and none succeeded before: the name may be wrong."""
        return self.origin == "load" and self.machine.failure is not None and self.detected is None

    @property
    def has_process(self) -> bool:
        return self.machine.owned or self.machine.launching

    @property
    def over(self) -> bool:
        """Whether a leaving engine has no process of ours any more."""
        resting = (ManagedState.OFF, ManagedState.STUCK, ManagedState.LOST, ManagedState.FAILED)
        return self.leaving and self.state in resting and not self.machine.launching

    @property
    def rules(self) -> Rules:
        return Rules(
            restarts=self.entry.restart != "never",
            stop_s=self.context.managed.stop_grace_s + _KILL_S,
            drain_s=self.context.drain_s,
            first_s=FIRST_S,
        )

    def silence(self) -> Silence | None:
        return self.context.service.silence(self)

    # The task

    async def begin(self) -> None:
        """Adopt the engine that runs already, if one does, and start the task."""
        self.expected_s = (await self.context.thread(learned.read, self.directory)).start_s
        try:
            self.running = await self.context.thread(running.adopt, self.directory)
        except LostKeeperError as error:
            self.post(events.KeeperSilent(EngineFailure(str(error), error.hint)))
        except KeeperError as error:
            log.warning("engine %s: %s", self.name, error)
        except Exception as error:  # one engine's files must not keep the gateway from starting
            report(error, f"the adoption of engine {self.name}")
        if self.running is not None:
            self._move(events.Adopted())
            self.gpus = await self._gpu_keys()
            self.context.turns.hold(self.name, self.gpus)
            log.info("engine %s is adopted, pid %s", self.name, self.running.pid)
            self._watch(self.running)
        self._task = asyncio.create_task(self._run())

    async def first_look(self) -> None:
        """Returns when an adopted engine answered, or its first question failed."""
        if self.watch is not None:
            await self.watch.looked.wait()

    async def close(self) -> None:
        """End the task. The engine runs on."""
        ending = [*self._tasks, *([self._task] if self._task else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self.running is not None:
            self.running.link.close()

    async def ended(self) -> None:
        """Returns when the engine has no process of ours."""
        while self._task is not None and (self.has_process or not self._inbox.empty()):
            await self.moved()

    async def moved(self) -> None:
        """Returns after the next event."""
        self._settled.clear()
        await self._settled.wait()

    async def _run(self) -> None:
        while True:
            due_at = self.machine.due_at
            wait_s = None if due_at is None else max(0.0, due_at - time.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    event: events.EngineEvent = await self._inbox.get()
            except TimeoutError:
                event = events.Due()
            try:
                self._move(event)
            except Exception as error:
                report(error, f"engine {self.name}")

    def _move(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.TurnCame) and not self.context.turns.holds(self.name):
            return  # the turn was given back meanwhile
        if isinstance(event, events.LoadWanted):
            self.coming = False
        before = self.machine
        self.machine, effects = step(before, event, self.rules, time.monotonic())
        if self.machine.state is not before.state:
            self._log_move(before)
        for effect in effects:
            self._do(effect)
        self._settled.set()
        if (
            self.machine.state in (ManagedState.STUCK, ManagedState.LOST)
            and before.state is not self.machine.state
        ):
            self._spawn(self._await_freed())

    def _log_move(self, before: Machine) -> None:
        machine, failure = self.machine, self.machine.failure
        if machine.state is ManagedState.FAILED and failure is not None:
            again = (
                "not started again"
                if machine.due_at is None
                else f"again in {max(0.0, machine.due_at - time.monotonic()):.0f} s"
            )
            log.error("engine %s failed: %s; %s", self.name, failure.message, again)
        elif machine.state in (ManagedState.STUCK, ManagedState.LOST):
            log.error("engine %s is %s: %s", self.name, machine.state, failure.message if failure else "")
        else:
            log.info("engine %s is %s", self.name, machine.state)

    def _do(self, effect: Effect) -> None:
        service = self.context.service
        match effect:
            case Effect.TAKE_TURN:
                self._take_turn()
            case Effect.GIVE_TURN:
                self.context.turns.give(self.name)
            case Effect.LAUNCH:
                self._spawn(self._launch(self.machine.run))
            case Effect.SERVE:
                assert self.detected is not None
                service.serve(self, self.detected)
            case Effect.DRAIN:
                service.drain(self)
                self._spawn(self._drained(self.machine.run))
            case Effect.UNSERVE:
                service.unserve(self)
            case Effect.STOP:
                self.context.turns.hold(self.name, self.gpus)
                self._spawn(self._stop())
            case Effect.REFUSE:
                service.refuse(self)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Effects

    def _take_turn(self) -> None:
        if not self.context.passive:
            self._spawn(self._ask_turn())

    async def _ask_turn(self) -> None:
        self.gpus = await self._gpu_keys()
        if self.machine.state is ManagedState.WAITING:
            self.context.turns.take(self.name, self.gpus, lambda: self.post(events.TurnCame()))

    async def _gpu_keys(self) -> tuple[str, ...]:
        """The GPUs whose turn a start needs: none on a machine without GPUs."""
        if self.entry.gpus == ("cpu",):
            return ()
        there = await self.context.thread(gpus)
        if not there or self.entry.gpus == ("auto",):
            return (ALL,) if there else ()
        return tuple(
            gpu.uuid
            for gpu in there
            if any(
                word == str(gpu.index) or gpu.uuid.lower().startswith(word.lower())
                for word in self.entry.gpus
            )
        )

    async def _launch(self, run: int) -> None:
        context = self.context
        try:
            self.running = await context.thread(
                running.start,
                self.name,
                self.entry,
                context.managed,
                directory=self.directory,
                environ=context.environ,
                neighbours=context.neighbours(),
                change=self.machine.change,
                about=self._about(),
            )
        except StartError as error:
            self.post(events.NotLaunched(run, error.failure))
            return
        except Exception as error:
            report(error, f"the start of engine {self.name}")
            self.post(events.NotLaunched(run, EngineFailure(f"the gateway failed: {error}")))
            return
        self.outdated = False
        self.post(events.Launched(run))
        self._watch(self.running)

    @property
    def changed_entry(self) -> ManagedEngineSettings:
        """The settings with the changes that failures have shown to be needed."""
        return replace(self.entry, **self.machine.change) if self.machine.change else self.entry

    def _about(self) -> dict[str, Any]:
        entry = self.entry
        return {
            "origin": self.origin,
            "entry": {
                "model": entry.model,
                "engine": entry.engine,
                "kind": entry.kind,
                "served_names": list(entry.served_names),
            },
        }

    def _watch(self, engine: RunningEngine) -> None:
        self.watch = EngineWatch(self, engine, self.machine.run)
        self._spawn(self.watch.run())

    async def _stop(self) -> None:
        engine = self.running
        if engine is None or self.context.passive:
            return
        # The first process ended by itself: nobody has asked the others to end, and they will not.
        grace_s = self.context.managed.stop_grace_s if engine.link.exit is None else _REST_S
        with contextlib.suppress(KeeperError):  # its keeper has ended, which the watch reports
            await self.context.thread(engine.link.stop, grace_s)

    async def _drained(self, run: int) -> None:
        while self.machine.run == run and self.state is ManagedState.DRAINING:
            if not self.context.service.in_flight(self):
                self.post(events.Drained(run))
                return
            await asyncio.sleep(_DRAIN_LOOK_S)

    async def _await_freed(self) -> None:
        """Look from time to time whether the processes are gone that may not be signalled."""
        while self.state in (ManagedState.STUCK, ManagedState.LOST):
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(KeeperError):
                found = await self.context.thread(running.adopt, self.directory)
                if found is None:
                    self.post(events.Freed())
                    return
                found.link.close()
