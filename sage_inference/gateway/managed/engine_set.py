"""The managed engines of one gateway: which there are, their place in the fleet, and the requests that wait for them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.config.check import name_of
from sage_inference.config.engine_rules import name_of_engine
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import InstanceSettings, ManagedEngineSettings, Settings
from sage_inference.engines.detect import Detected
from sage_inference.engines.managed import running
from sage_inference.engines.managed.hang import Silence
from sage_inference.engines.managed.machine import ManagedState
from sage_inference.engines.managed.ports import port_of, sweep_sockets
from sage_inference.engines.managed.running import Neighbours
from sage_inference.engines.managed.supervisor import EngineContext, EngineSupervisor
from sage_inference.engines.managed.turns import Turns
from sage_inference.engines.patience import Patience
from sage_inference.engines.query_clients import QueryClients
from sage_inference.gateway.api.reloading import Changes
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.managed import wording
from sage_inference.gateway.managed.engine_run import EngineRun
from sage_inference.gateway.managed.kept_engines import entry_of
from sage_inference.keeper import client as keeper
from sage_inference.types import EngineState

if TYPE_CHECKING:
    from sage_inference.gateway.fleet import Fleet
    from sage_inference.gateway.gateway import Gateway

log = logging.getLogger("sage_inference.managed")

ADOPT_S = 1.0  # for the first answers of adopted engines, before the gateway goes on with its start
FORGET_S = 600.0  # until an engine for a model that was loaded by name, and could not be, leaves the list
_BEGIN_S = 5.0  # for engines that were declared just before the end
_THREADS = 8


class ManagedEngine(EngineSupervisor):
    """A supervised engine, as the requests see it that want its model."""

    @property
    def holds_requests(self) -> bool:
        starts = self.state is ManagedState.OFF and (self.coming or self._starts_on_demand)
        return (self.machine.holds_requests or starts) and not self.leaving

    @property
    def serves(self) -> bool:
        return self.state is ManagedState.READY

    @property
    def ends(self) -> bool:
        return self.context.service.reports_end(self)

    @property
    def _starts_on_demand(self) -> bool:
        return self.entry.start == "demand" and not self.machine.kept

    @property
    def kind(self) -> str:
        """llm, embedding or reranker; auto if neither the settings nor a start have shown it."""
        known = None if self.running is None else self.running.about.get("kind")
        return str(known or self.entry.kind)

    @property
    def state_name(self) -> str:
        return self.state.value

    def want(self) -> None:
        if self.state in (ManagedState.OFF, ManagedState.STOPPING) and self._starts_on_demand:
            self.load(asked=False)

    def refusal(self) -> ApiError:
        return wording.refusal(self)

    def late(self) -> ApiError:
        return wording.late(self)

    def progress_text(self) -> str:
        return wording.progress_text(self)


class ManagedEngines:
    """Made inside a running event loop. ``keeps``: the engines run on when the gateway ends."""

    def __init__(
        self, gateway: Gateway, fleet: Fleet, state_dir: Path, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.gateway = gateway
        self.fleet = fleet
        self.engines: dict[str, ManagedEngine] = {}
        self.keeps = False
        self._closing = False
        self.on_change: Callable[[], None] = lambda: None
        settings = gateway.settings
        self.context = EngineContext(
            managed=settings.managed,
            state_dir=state_dir,
            environ=environ,
            service=self,
            queries=QueryClients(),
            patience=Patience(lambda: gateway.wheel.now),
            threads=ThreadPoolExecutor(_THREADS, "engines"),
            turns=Turns(),
            drain_s=settings.timeouts.drain_s,
            question_s=settings.health.timeout_s,
            neighbours=self._neighbours,
        )
        self._leavers: set[asyncio.Task[None]] = set()

    # The life of the set

    async def begin(self, settings: Settings, *, passive: bool) -> None:
        """Declare the engines of the configuration and those that keepers hold, and adopt what runs."""
        self.context.passive = passive
        for entry in settings.engines:
            self._add(name_of_engine(entry), entry, "config")
        for directory in await self.context.thread(keeper.directories, self.context.state_dir):
            await self.context.thread(sweep_sockets, directory)
            if directory.name in self.engines:
                continue
            kept = await self.context.thread(entry_of, directory)
            if kept is not None:
                self._add(directory.name, kept.entry, kept.origin).leaving = kept.origin == "config"
        await asyncio.gather(*(engine.begin() for engine in self.engines.values()))
        looks = [asyncio.create_task(engine.first_look()) for engine in self.engines.values()]
        if looks:
            await asyncio.wait(looks, timeout=ADOPT_S)
            await asyncio.sleep(0)  # their supervisors take the answers
        for look in looks:
            look.cancel()
        self._declare()
        if not passive:
            self.take_over()

    def take_over(self) -> None:
        """This gateway gives the orders from now on: start what should run, end what is not wanted."""
        self.context.passive = False
        for engine in list(self.engines.values()):
            engine.attach()
            if engine.leaving:
                self._leave(engine)
            elif engine.entry.start == "boot":
                engine.load(asked=False)
        self._spawn(self._look_for_outdated())

    def hand_over(self) -> None:
        """Another gateway gives the orders from now on."""
        self.context.passive = True
        self.keeps = True
        living = sum(engine.has_process for engine in self.engines.values())
        if living:
            log.info("another gateway takes over %d engines", living)

    async def close(self) -> None:
        """End the supervision, and the engines too unless they are kept."""
        self._closing = True
        if self._leavers:  # one may be starting an engine just now, which must be ended too
            await asyncio.wait(self._leavers, timeout=_BEGIN_S)
        # A successor that could not take over has no right to stop them.
        if not self.keeps and not self.context.passive:
            await self._stop_all()
        for task in self._leavers:
            task.cancel()
        await asyncio.gather(*(engine.close() for engine in self.engines.values()))
        await self.context.queries.aclose()
        self.context.threads.shutdown(wait=False, cancel_futures=True)

    async def _stop_all(self) -> None:
        running_ones = [engine for engine in self.engines.values() if engine.has_process]
        if running_ones:
            log.info("stopping engines: %s", ", ".join(engine.name for engine in running_ones))
        for engine in self.engines.values():
            engine.unload()
        await asyncio.gather(*(engine.ended() for engine in self.engines.values()))

    # Declared engines

    def declare_missing(self, run: EngineRun) -> None:
        """Make an engine of each model of the run's options that no instance and no engine serves."""
        registry, room = self.gateway.registry, self.gateway.waiting_room
        for wanted in run.models:
            model = registry.resolve(wanted.model)
            if model not in registry.models() and model not in room.declared:
                self.declare(run.entry_for(wanted, model), "flag")

    def declare(self, entry: ManagedEngineSettings, origin: str) -> ManagedEngine:
        """Add an engine for this run, and start it. Its name is made unique."""
        names = {*self.engines, *self.gateway.engines, *map(name_of, self.gateway.settings.instances)}
        name = stem = name_of_engine(entry)
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        engine = self._add(name, replace(entry, name=name), origin)
        self._declare()
        self._spawn(self._begin(engine, asked=True))
        return engine

    async def _begin(self, engine: ManagedEngine, *, asked: bool) -> None:
        """Adopt the engine, and load it: if it was ``asked`` for, or if it starts with the gateway."""
        await engine.begin()
        if (asked or engine.entry.start == "boot") and not self._closing:
            engine.load(asked=asked)

    def apply(self, settings: Settings) -> Changes:
        """Follow the configuration after a reload. Engines that were declared for this run stay."""
        context = self.context
        context.managed, context.drain_s = settings.managed, settings.timeouts.drain_s
        context.question_s = settings.health.timeout_s
        wanted = {name_of_engine(entry): entry for entry in settings.engines}
        changes = Changes([], [], [])
        for name, engine in list(self.engines.items()):
            if name not in wanted and engine.origin == "config" and not engine.leaving:
                changes.removed.append(name)
                self._leave(engine)
        for name, entry in wanted.items():
            known = self.engines.get(name)
            if known is None:
                changes.added.append(name)
                self._spawn(self._begin(self._add(name, entry, "config"), asked=False))
            else:
                if known.leaving:
                    known.leaving = False
                    known.load(asked=True)
                if known.entry != entry:
                    changes.changed.append(name)
                    self._change(known, entry)
                known.origin = "config"
        self._declare()
        self._spawn(self._replace_outdated())
        return changes

    def _change(self, engine: ManagedEngine, entry: ManagedEngineSettings) -> None:
        before, engine.entry = engine.entry, entry
        if engine.state is ManagedState.FAILED:
            engine.load(asked=True)
        elif engine.state is ManagedState.READY and before.instance != entry.instance:
            assert engine.detected is not None
            self.unserve(engine)
            self.serve(engine, engine.detected)

    async def _replace_outdated(self) -> None:
        await self._look_for_outdated()
        context = self.context
        for engine in list(self.engines.values()):
            if engine.outdated and not engine.leaving:
                problem = await context.thread(
                    running.obstacle,
                    engine.entry,
                    context.managed,
                    engine.directory,
                    context.environ,
                    context.neighbours(),
                )
                if problem is None:
                    engine.restart()
                else:
                    log.error("engine %s runs on with former settings: %s", engine.name, problem)

    async def _look_for_outdated(self) -> None:
        """Compare how each running engine was started with how it would be started now."""
        context = self.context
        for engine in list(self.engines.values()):
            process = engine.running
            if process is None or not engine.has_process or engine.leaving:
                continue
            recipe = str(process.about.get("engine"))
            wanted = await context.thread(
                running.spec_hash_of, engine.entry, context.managed, recipe, context.environ
            )
            if engine.running is process:
                engine.outdated = wanted != process.spec_hash
                if engine.outdated:
                    log.warning("engine %s runs with former settings", engine.name)

    def _neighbours(self) -> Neighbours:
        running_ones = {
            n: e.running for n, e in self.engines.items() if e.running is not None and e.has_process
        }
        return Neighbours(
            entries=[engine.entry for engine in self.engines.values()],
            held={name: process.about.get("gpus") or () for name, process in running_ones.items()},
            ports=frozenset(
                port for process in running_ones.values() if (port := port_of(process.url)) is not None
            ),
        )

    def ours(self) -> tuple[frozenset[int], frozenset[int]]:
        """The ports and the processes of engines of ours, which others did not start."""
        living = [engine.running for engine in self.engines.values() if engine.running and engine.has_process]
        pids = {each.pid for each in living if each.pid is not None}
        return self._neighbours().ports, frozenset(pids | {each.link.keeper_pid for each in living})

    def _add(self, name: str, entry: ManagedEngineSettings, origin: str) -> ManagedEngine:
        engine = self.engines[name] = ManagedEngine(name, entry, self.context, origin)
        engine.coming = origin != "config" or entry.start == "boot"
        return engine

    def _leave(self, engine: ManagedEngine) -> None:
        engine.leave()
        self._spawn(self._forget(engine))

    async def _forget(self, engine: ManagedEngine) -> None:
        await asyncio.sleep(0)
        while not engine.over:
            if not engine.leaving:
                return  # declared again meanwhile
            await engine.moved()
        await engine.close()
        if self.engines.get(engine.name) is engine:
            del self.engines[engine.name]
        self._declare()

    def _declare(self) -> None:
        declared: dict[str, tuple[ManagedEngine, ...]] = {}
        for engine in self.engines.values():
            if not engine.leaving:
                for name in engine.names:
                    declared[name] = (*declared.get(name, ()), engine)
        self.gateway.waiting_room.declared = declared
        self.on_change()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leavers.add(task)
        task.add_done_callback(self._leavers.discard)

    # The service of the engines

    def serve(self, engine: EngineSupervisor, detected: Detected) -> None:
        process = engine.running
        assert process is not None
        name = engine.name
        if name in self.gateway.engines:
            self.fleet.undrain(name)
        else:
            options = engine.entry.instance
            gpus = process.about.get("gpus") or []
            settings = InstanceSettings(
                url=process.url,
                name=name,
                api_key=None if process.api_key is None else Secret(process.api_key),
                max_concurrent_requests=options.max_concurrent_requests,
                max_batched_tokens=options.max_batched_tokens,
                kv_cache_tokens=options.kv_cache_tokens,
                gpu=f"cuda:{gpus[0]}" if len(gpus) == 1 else None,
            )
            self.fleet.add(settings, detected=detected)
        self.gateway.waiting_room.admit(engine.names)

    def drain(self, engine: EngineSupervisor) -> None:
        if (upstream := self.gateway.engines.get(engine.name)) is not None:
            upstream.last_error = "its engine is about to stop"
        self.fleet.drain(engine.name)

    def unserve(self, engine: EngineSupervisor) -> None:
        self.fleet.remove(engine.name)

    def refuse(self, engine: EngineSupervisor) -> None:
        self.gateway.waiting_room.refuse(engine.names)
        if engine.is_a_mistake and engine.state is ManagedState.FAILED:
            asyncio.get_running_loop().call_later(FORGET_S, self._forget_failed, engine, engine.machine.since)

    def unload(self, engine: ManagedEngine) -> None:
        """End the engine. One that a load of a wrong name has made is forgotten at once."""
        if engine.is_a_mistake and not engine.leaving:
            self._leave(engine)
            self._declare()
        else:
            engine.unload()

    def _forget_failed(self, engine: EngineSupervisor, since: float) -> None:
        known = self.engines.get(engine.name)
        if known is engine and known.state is ManagedState.FAILED and known.machine.since == since:
            self.unload(known)

    def in_flight(self, engine: EngineSupervisor) -> int:
        upstream = self.gateway.engines.get(engine.name)
        return 0 if upstream is None else upstream.instance.active_requests

    def silence(self, engine: EngineSupervisor) -> Silence | None:
        upstream = self.gateway.engines.get(engine.name)
        if upstream is None or not upstream.health.is_silent:
            return None
        busy = upstream.instance.active_requests > 0
        return Silence(
            sent=upstream.pieces_due(),
            allowed_s=self.gateway.settings.timeouts.first_byte_s if busy else 0.0,
            asleep=upstream.sleep.asleep,
            error=upstream.last_error,
        )

    def reports_end(self, engine: EngineSupervisor) -> bool:
        upstream = self.gateway.engines.get(engine.name)
        return upstream is not None and upstream.health.state is EngineState.DRAINING

    def queued(self, engine: EngineSupervisor) -> int:
        return self.gateway.waiting_room.waiting_for(engine.names)
