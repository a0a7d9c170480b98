"""The watch over one process of an engine: the progress of its start, its first answer, its beats and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sage_inference import engine_url
from sage_inference.config.address import parse_backend
from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.detect import Detected
from sage_inference.engines.managed import events, hang, learned, running
from sage_inference.engines.managed.activity import ActivityMeter
from sage_inference.engines.managed.failure import EngineFailure
from sage_inference.engines.managed.footprint import await_memory, memory_mb
from sage_inference.engines.managed.hang import HangWatch, Silence
from sage_inference.engines.managed.learned import LearnedFacts
from sage_inference.engines.managed.machine import Machine, ManagedState, Rules
from sage_inference.engines.managed.ports import sweep_sockets
from sage_inference.engines.managed.readiness import NotReadyError, serving
from sage_inference.engines.managed.running import RunningEngine
from sage_inference.engines.patience import Patience
from sage_inference.engines.query_clients import QueryClients
from sage_inference.keeper.client import KeeperError, LostKeeperError, StartLog
from sage_inference.wire.isolation import report

if TYPE_CHECKING:
    from sage_inference.engines.managed.progress import StartMoment, StartProgress

log = logging.getLogger("sage_inference.managed")

BEAT_S = 10.0
HANG_LOOK_S = 5.0
_LOOK_S = 0.25  # between two looks at the log and the file system
_FIRST_ASK_S = 0.1
_LONGEST_ASK_S = 1.0


T = TypeVar("T")


class WatchContext(Protocol):
    """The part of the engines' common surroundings that a watch needs."""

    passive: bool
    question_s: float
    queries: QueryClients
    patience: Patience

    async def thread(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T: ...


class Watched(Protocol):
    """The engine that a watch reports to."""

    name: str
    directory: Path
    entry: ManagedEngineSettings
    machine: Machine
    detected: Detected | None
    expected_s: float | None
    memory_mb: int | None
    lacks_chat_template: bool

    @property
    def context(self) -> WatchContext: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def changed_entry(self) -> ManagedEngineSettings: ...

    def post(self, event: events.EngineEvent) -> None: ...

    def silence(self) -> Silence | None:
        """A look at the engine if it answers nothing."""


class EngineWatch:
    """``looked`` is set after the first question to the engine."""

    def __init__(self, engine: Watched, process: RunningEngine, run: int) -> None:
        self.looked = asyncio.Event()
        self.progress: StartProgress | None = None
        self._engine = engine
        self._process = process
        self._run = run
        self._began = time.monotonic()
        self._ended = asyncio.Event()

    @property
    def moment(self) -> StartMoment | None:
        return None if self.progress is None else self.progress.progress

    async def run(self) -> None:
        link, loop = self._process.link, asyncio.get_running_loop()
        loop.add_reader(link.fileno(), self._ended.set)
        tasks = [asyncio.create_task(work) for work in (self._beats(), self._starts(), self._hangs())]
        try:
            while True:
                await self._ended.wait()
                self._ended.clear()
                if link.look() is not None or link.ended:
                    break
        finally:
            loop.remove_reader(link.fileno())
            for task in tasks:
                task.cancel()
            self.looked.set()
        await self._over()

    async def _over(self) -> None:
        """The first process ended. The keeper ends the others."""
        engine, link, directory = self._engine, self._process.link, self._engine.directory
        was_ready = engine.machine.state in (ManagedState.READY, ManagedState.DRAINING)
        if link.exit is not None:
            engine.post(events.FirstExited(self._run))
        try:
            record = await engine.context.thread(link.wait_exit, engine.rules.stop_s)
            await engine.context.thread(await_memory, self._process.about.get("gpus") or ())
        except LostKeeperError as error:
            await self._keeper_died(error)
            return
        except KeeperError as error:
            engine.post(events.KeeperLost(self._run, EngineFailure(str(error), error.hint)))
            return
        finally:
            link.close()
        if record is None:
            engine.post(
                events.KeeperLost(self._run, EngineFailure("its keeper ended, and its processes did not"))
            )
            return
        await engine.context.thread(sweep_sockets, directory)
        phase = self.moment.phase if self.moment is not None else None
        failure = await engine.context.thread(
            running.explained,
            directory,
            record,
            phase,
            was_ready,
            engine.changed_entry,
            self._process.about,
        )
        engine.post(events.Exited(self._run, failure))

    async def _keeper_died(self, error: LostKeeperError) -> None:
        engine = self._engine
        try:
            left = await engine.context.thread(running.adopt, engine.directory)
        except KeeperError:
            engine.post(events.KeeperLost(self._run, EngineFailure(str(error), error.hint)))
            return
        if left is not None:
            left.link.close()
        engine.post(events.Exited(self._run, EngineFailure("its keeper was killed, and the engine with it")))

    async def _beats(self) -> None:
        while True:
            try:
                await self._engine.context.thread(self._process.link.beat)
                self._engine.memory_mb = await self._engine.context.thread(memory_mb, self._process.pid)
            except KeeperError as error:
                log.warning("engine %s: %s", self._engine.name, error)
            await asyncio.sleep(BEAT_S)

    async def _hangs(self) -> None:
        """Report an engine that serves, and shows no sign of life."""
        engine, clock = self._engine, self._engine.context.patience
        # A container's processes are not those of the command that runs it, so nothing is known of their work.
        is_seen = self._process.about.get("engine") != "command"
        meter = ActivityMeter(self._process.pid if is_seen else None)
        watch = HangWatch(clock.now)
        while True:
            await asyncio.sleep(HANG_LOOK_S)
            serves = engine.machine.state is ManagedState.READY and not engine.context.passive
            silence = engine.silence() if serves else None
            if silence is None:
                watch.alive(clock.now)
                continue
            activity = await engine.context.thread(meter.look)
            sentence = watch.hangs(silence, activity, engine.entry.stall_s, clock.now)
            if sentence is not None:
                engine.post(events.Hung(self._run, hang.failure_of(engine.name, sentence)))
                return

    # The start

    async def _starts(self) -> None:
        reading = asyncio.create_task(self._follow())
        try:
            await self._until_ready()
        finally:
            reading.cancel()

    async def _until_ready(self) -> None:
        engine, wait_s = self._engine, _FIRST_ASK_S
        context = engine.context
        # An adopted engine that has served before may be busy: its health and its models are proof enough.
        known = (await context.thread(learned.read, engine.directory)).of(self._process.started_at)
        backend = parse_backend(self._process.url)
        client = context.queries.of(None, backend.uds or None)
        url = engine_url.AT_SOCKET if backend.uds else backend.base_url
        while True:
            try:
                served = await serving(
                    client,
                    url,
                    self._process.api_key,
                    engine.names,
                    question_s=context.question_s,
                    patience=context.patience,
                    warms=known is None,
                )
            except NotReadyError:
                self.looked.set()
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_ASK_S, wait_s * 1.5)
                continue
            except Exception as error:
                report(error, f"the first questions to engine {engine.name}")
                await asyncio.sleep(_LONGEST_ASK_S)
                continue
            now, is_new = time.time(), known is None
            found = known or LearnedFacts(
                max(0.0, now - self._process.started_at), now, served.lacks_chat_template
            )
            engine.detected, engine.lacks_chat_template = served.detected, found.lacks_chat_template
            engine.expected_s = found.start_s
            engine.post(events.Answered(self._run))
            self.looked.set()
            if is_new:
                await context.thread(learned.write, engine.directory, found)
            return

    async def _follow(self) -> None:
        """Read the log of the start, and judge it by its signs of life."""
        engine = self._engine
        lines = await engine.context.thread(StartLog, engine.directory)
        try:
            self.progress = progress = await engine.context.thread(_progress, self._process.about)
            while True:
                with contextlib.suppress(OSError):
                    await engine.context.thread(_look, lines, progress, self._process.pid)
                if (failure := self._overdue(progress)) is not None and not engine.context.passive:
                    engine.post(events.Stalled(self._run, failure))
                    return
                await asyncio.sleep(_LOOK_S)
        except Exception as error:
            report(error, f"the progress of engine {engine.name}")
        finally:
            lines.close()

    def _overdue(self, progress: StartProgress) -> EngineFailure | None:
        entry, now = self._engine.entry, time.monotonic()
        phase = progress.progress.phase.words
        if now - self._began > entry.start_timeout_s:
            return EngineFailure(
                f"it did not start within {entry.start_timeout_s:g} s (start_timeout_s); it was {phase}",
                f"sage inference logs {self._engine.name} -n 50",
            )
        if now - max(progress.stirred_at, self._began) > entry.stall_s:
            return EngineFailure(
                f"it printed nothing, read nothing and did nothing for {entry.stall_s:g} s (stall_s) while {phase}",
                f"sage inference logs {self._engine.name} -n 50",
            )
        return None


def _progress(about: dict[str, Any]) -> StartProgress:
    # Here, on a thread, because a gateway without engines of its own does without it.
    from sage_inference.engines.managed.progress import StartProgress

    return StartProgress(about)


def _look(lines: StartLog, progress: StartProgress, pid: int | None) -> None:
    for line in lines.read():
        progress.line(line)
    progress.look(pid)
