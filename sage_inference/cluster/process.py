"""The engine process of one replica: started under a keeper, awaited, watched and ended. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_inference.cluster.folder import FolderError, PortLease, touch
from sage_inference.config.engine_rules import served_names_of
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.dialects import OPENAI, dialect_of
from sage_inference.engines.managed import ports as engine_ports
from sage_inference.engines.managed import running
from sage_inference.engines.managed.failure import Retry
from sage_inference.engines.managed.progress import StartProgress
from sage_inference.engines.managed.readiness import NotReadyError, serving
from sage_inference.engines.managed.recipes.base import Listen
from sage_inference.engines.managed.running import Neighbours, RunningEngine, StartError
from sage_inference.engines.patience import REAL_TIME
from sage_inference.engines.probe import probe
from sage_inference.engines.query_clients import query_client
from sage_inference.keeper.client import KeeperError, StartLog

log = logging.getLogger("ray.serve")  # Ray shows the lines of this logger as those of the replica

# An engine outlives a killed replica by this: the gateway learns of its end first, and streams go on to theirs.
ORPHAN_S = 30.0
STOP_GRACE_S = 15.0
_KILLED_S = 10.0
_BEAT_S = 2.0
_LOOK_S = 0.25
_ASK_S = 0.5
_QUESTION_S = 10.0
_HEALTH_S = 20.0  # a busy engine answers late; Ray waits 30 s
# The engine of a replica that was killed on these GPUs ends first.
_MEMORY_S = ORPHAN_S + STOP_GRACE_S + _KILLED_S + 5.0
_TRIES = 5


class ReplicaError(Exception):
    """The engine did not start, or has ended. The message is one sentence with the cause."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """All that is known of an engine before its start."""

    name: str
    entry: ManagedEngineSettings
    programs: Mapping[str, Any]
    listen: Listen
    ports: str
    root: Path
    folder: Path
    about: Mapping[str, Any]


class OwnedEngine:
    """One engine. ``start``, ``stop`` and ``ended`` block for seconds; ``ready`` and ``health`` are coroutines."""

    def __init__(self, plan: EnginePlan, environ: Mapping[str, str]) -> None:
        self._plan = plan
        self._environ = environ
        self._lease: PortLease | None = None
        self._running: RunningEngine | None = None
        self._dialect = OPENAI
        self._is_ready = False
        self._stopping = threading.Event()
        self._looking = threading.Lock()

    @property
    def url(self) -> str:
        return self._process.url

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def _process(self) -> RunningEngine:
        assert self._running is not None, "start comes first"
        return self._running

    def start(self) -> None:
        """Start the engine. Waits for memory that an engine holds whose replica was killed. Raises ``ReplicaError``."""
        deadline, skip = time.monotonic() + _MEMORY_S, frozenset[int]()
        while True:
            try:
                self._lease = PortLease(self._plan.root, self._plan.ports, skip=skip)
                self._running = self._start(self._lease)
                break
            except FolderError as error:
                raise ReplicaError(str(error)) from None
            except StartError as error:
                self._release()
                failure = error.failure
                if failure.retry is Retry.WHEN_MEMORY and time.monotonic() < deadline:
                    log.warning("engine %s waits: %s", self._plan.name, failure.message)
                    time.sleep(_BEAT_S)
                elif "no port from" in failure.message and len(skip) < _TRIES and self._lease:
                    skip |= {self._lease.first}
                else:
                    raise self._error(failure.message, failure.hint) from None
        threading.Thread(target=self._beat, name="engine-beats", daemon=True).start()

    def _start(self, lease: PortLease) -> RunningEngine:
        plan = self._plan
        managed = replace(
            ManagedSettings(supervisor="plain", orphan_timeout_s=ORPHAN_S, stop_grace_s=STOP_GRACE_S),
            ports=lease.range,
            **plan.programs,
        )
        return running.start(
            plan.name,
            plan.entry,
            managed,
            directory=plan.folder,
            environ=self._environ,
            neighbours=Neighbours(),
            change={},
            about=plan.about,
            listen=plan.listen,
        )

    async def ready(self) -> None:
        """Wait until the engine answers a request of its kind. Raises ``ReplicaError`` if it ends, stalls or takes too long."""
        began = time.monotonic()
        progress = StartProgress(self._process.about)
        lines = StartLog(self._plan.folder)
        client = query_client()
        try:
            while True:
                await self._raise_if_ended(progress)
                for line in lines.read():
                    progress.line(line)
                progress.look(self.pid)
                self._raise_if_overdue(progress, began)
                if await self._serves(client):
                    return
                await asyncio.sleep(_ASK_S)
        finally:
            lines.close()
            await client.aclose()

    async def _serves(self, client: Any) -> bool:
        names = served_names_of(self._plan.entry)
        try:
            found = await serving(
                client,
                self.url,
                self._plan.listen.api_key,
                names,
                question_s=_QUESTION_S,
                patience=REAL_TIME,
                warms=True,
            )
        except NotReadyError:
            return False
        self._dialect = dialect_of(found.detected.engine)
        self._is_ready = True
        return True

    def _raise_if_overdue(self, progress: StartProgress, began: float) -> None:
        entry, now = self._plan.entry, time.monotonic()
        phase = progress.progress.phase.words
        if now - began > entry.start_timeout_s:
            raise self._error(f"it did not start within {entry.start_timeout_s:g} s; it was {phase}", None)
        if now - max(progress.stirred_at, began) > entry.stall_s:
            raise self._error(f"it showed no sign of life for {entry.stall_s:g} s while {phase}", None)

    async def _raise_if_ended(self, progress: StartProgress | None = None) -> None:
        cause = await asyncio.to_thread(self.ended, progress)
        if cause is not None:
            raise ReplicaError(cause)

    def ended(self, progress: StartProgress | None = None) -> str | None:
        """The cause of the engine's end, as a sentence; None while it runs."""
        link = self._process.link
        with self._looking:
            if link.look() is None and not link.ended:
                return None
            try:
                record = link.wait_exit(STOP_GRACE_S + _KILLED_S)
            except KeeperError as error:
                return str(self._error(str(error), error.hint))
        phase = progress.progress.phase if progress else None
        plan = self._plan
        failure = running.explained(
            plan.folder, record, phase, self._is_ready, plan.entry, self._process.about
        )
        return str(self._error(failure.message, None))

    async def health(self) -> None:
        """Raises ``ReplicaError`` if the engine has ended, or does not report that it is well."""
        await self._raise_if_ended()
        client = query_client()
        try:
            found = await probe(client, self.url, self._dialect, self._plan.listen.api_key, _HEALTH_S)
        finally:
            await client.aclose()
        if not found.ok:
            reason = found.error or f"{self._dialect.health_path} answers {found.status}"
            raise self._error(f"it is not healthy: {reason}", None)

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call ``ended`` on a thread of its own, with the cause, if the engine ends without an order."""

        def wait() -> None:
            while not self._stopping.wait(_LOOK_S):
                cause = self.ended()
                if cause is not None and not self._stopping.is_set():
                    ended(cause)
                    return

        threading.Thread(target=wait, name="engine-watch", daemon=True).start()

    def stop(self) -> None:
        """End the engine with all of its processes, and wait for that. A second call does nothing."""
        if self._running is None or self._stopping.is_set():
            return
        self._stopping.set()
        link = self._running.link
        with contextlib.suppress(KeeperError):
            link.stop()
        with self._looking, contextlib.suppress(KeeperError):
            if link.wait_exit(STOP_GRACE_S + _KILLED_S) is None:
                log.warning("engine %s was killed, and the system still holds it", self._plan.name)
        link.close()
        engine_ports.sweep_sockets(self._plan.folder)
        touch(self._plan.folder)
        self._release()

    def _beat(self) -> None:
        """Report to the keeper that the replica lives. Without that, it ends the engine after ``ORPHAN_S``."""
        while not self._stopping.wait(_BEAT_S):
            try:
                self._process.link.beat()
            except KeeperError:
                if self._process.link.ended:
                    return

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()

    def _error(self, message: str, hint: str | None) -> ReplicaError:
        where = self._plan.about.get("node")
        return ReplicaError(f"engine {self._plan.name} on {where}: {message}{f'; {hint}' if hint else ''}")
