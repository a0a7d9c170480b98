"""The watch over the engines: detects and probes each of them, adds and removes instances while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable

from sage_inference.config.address import parse_backend
from sage_inference.config.check import name_of
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.engines.detect import Detected, DetectError
from sage_inference.engines.pool import Address
from sage_inference.engines.sleep import SleepProbe
from sage_inference.gateway.api.reloading import Changes
from sage_inference.gateway.engine_questions import EngineQuestions
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.replicas import EMBEDDINGS, Replicas
from sage_inference.gateway.sourced import SourcedInstances
from sage_inference.gateway.upstream import Upstream, trusted_by
from sage_inference.trust import TrustError
from sage_inference.types import EngineKind, EngineState, ExecutionInstance
from sage_inference.wire.isolation import report

log = logging.getLogger("sage_inference.fleet")

_READY_LOOK_S = 0.02
FIRST_LOOK_S = 1.0  # a start waits so long for the other engines once some can serve
RETIRE_S = 5.0  # an instance that a reload removes waits so long for others that were not looked at yet
SHORTEST_REST_S = 0.05
REFRESH_S = 30.0  # from one detection to the next: adapters come and go on a running engine
LOOK_AGAIN_S = 1.0  # between two questions for models, however many requests name one that nobody serves
_SETTLED = (EngineState.READY, EngineState.ASLEEP)  # states in which the engine's models are known


class Fleet:
    """The engines of one gateway, each watched by a task of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._questions = EngineQuestions(gateway)
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._looked: dict[str, asyncio.Event] = {}
        self._unawaited: set[str] = set()  # a start without them helps callers more than a wait for them
        self._configured: dict[str, InstanceSettings] = {}
        self._leaving: set[str] = set()  # removed by a reload; they serve until their successors can
        self._tasks: set[asyncio.Task[None]] = set()
        self._replicas = Replicas(gateway, self._questions.vector)
        self.sourced = SourcedInstances(self)
        gateway.scheduler.when_unserved(self._look_again)

    async def start(self, settings: Settings) -> None:
        """Add the configured instances. Returns when ``looked`` does."""
        self.apply(settings)
        await self.looked()

    async def looked(self, limit_s: float = FIRST_LOOK_S) -> None:
        """Returns when every instance was looked at once, or after ``limit_s`` as soon as one can serve.

        A look ends within the limit that ``detect`` has. The instances of sources are not waited for any longer.
        """
        await self.first_looks(self._looked, limit_s)
        others = [event for name, event in self._looked.items() if name not in self._unawaited]
        pending = {asyncio.ensure_future(event.wait()) for event in others if not event.is_set()}
        while pending and not self.gateway.can_serve:  # a start without any instance would help no caller
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()

    async def first_looks(self, names: Iterable[str], limit_s: float) -> None:
        """Returns when each of the instances was looked at once, or after ``limit_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for event in [self._looked[name] for name in names if name in self._looked]:
                    await event.wait()

    async def ready(self, names: Iterable[str], limit_s: float) -> None:
        """Returns when each of the instances can serve, or after ``limit_s``."""
        waiting = set(names)
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            upstreams = self.gateway.engines
            waiting = {
                n for n in waiting if n in upstreams and upstreams[n].instance.state is not EngineState.READY
            }
            if not waiting:
                return
            await asyncio.sleep(_READY_LOOK_S)

    async def close(self) -> None:
        """Stop watching. Returns when all tasks have ended."""
        ending = [*self._tasks, *self._watchers.values()]
        for task in self._tasks:
            task.cancel()
        self._replicas.close()
        for name in list(self._watchers):
            self.remove(name)
        await asyncio.gather(*ending, return_exceptions=True)
        await self._questions.aclose()

    def apply(self, settings: Settings) -> Changes:
        """Make the configured instances those of the settings. Instances that were added through the API stay."""
        self._questions.use(settings.health.timeout_s)
        wanted = {name_of(entry): entry for entry in settings.instances}
        gone = [name for name in self._configured if name not in wanted]
        changed = [n for n, entry in wanted.items() if n in self._configured and self.differs(n, entry)]
        added = [name for name in wanted if name not in self._configured]
        for name in (*changed, *added):
            # An instance of this name: with former settings, added through the API, or still leaving.
            known = self.gateway.engines.get(name)
            self._leaving.discard(name)
            if known is None:
                self.add(wanted[name])
            elif self.differs(name, wanted[name]):
                self.remove(name)
                self.add(wanted[name], known)
        self._configured = wanted
        self._retire(gone)
        for upstream in self.gateway.engines.values():
            upstream.detected_at = -math.inf
            upstream.look_again()
        return Changes(added, gone, changed)

    def differs(self, name: str, wanted: InstanceSettings) -> bool:
        """Whether a running instance has other settings, or another key behind the same ``file:`` or ``env:``."""
        known = self.gateway.engines.get(name)
        if known is None:
            return self._configured.get(name) != wanted
        if known.settings != wanted or known.trusted != trusted_by(wanted):
            return True
        return known.api_key != (wanted.api_key and wanted.api_key.reveal())

    def configures(self, name: str) -> bool:
        """Whether the instance is one of the configuration's."""
        return name in self._configured

    def leaves(self, name: str) -> bool:
        """Whether the configuration had the instance until now."""
        return name in self._leaving

    def keep(self, name: str) -> None:
        """Keep an instance that the configuration does not have any more."""
        self._leaving.discard(name)

    def _retire(self, gone: list[str]) -> None:
        """Remove the instances of ``gone`` once all others were looked at.

        The others may have been added by this reload or by one before: until they were looked at, they serve nothing.
        """
        others = self._looked.keys() - self._leaving - set(gone)
        looks = [event for name in others if not (event := self._looked[name]).is_set()]
        if not looks:
            for name in gone:
                self.remove(name)
        elif gone:
            self._leaving |= set(gone)
            task = asyncio.create_task(self._retire_after(gone, looks))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _retire_after(self, gone: list[str], looked: list[asyncio.Event]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_S):
                for event in looked:
                    await event.wait()
        for name in gone:
            if name in self._leaving:
                self.remove(name)

    def add(
        self,
        settings: InstanceSettings,
        known: Upstream | None = None,
        *,
        detected: Detected | None = None,
        awaited: bool = True,
    ) -> Upstream:
        """Add an instance. ``known``: the same one with former settings. It serves at once if it answered ``detected``.

        ``awaited``: whether a start that can serve nothing yet waits for it.
        """
        gateway = self.gateway
        backend = parse_backend(settings.url)
        address = Address(backend.host, backend.port, backend.prefix, backend.scheme == "https", backend.uds)
        instance = ExecutionInstance(
            name_of(settings),
            backend.host,
            backend.port,
            max_concurrent_requests=settings.max_concurrent_requests,
            state=EngineState.STARTING,
            gpu=settings.gpu,
            scheme=backend.scheme,
            prefix=backend.prefix,
            ca_file=settings.ca_file,
            uds=backend.uds or None,
        )
        if settings.kv_cache_tokens:
            instance.kv_tokens = settings.kv_cache_tokens
        upstream = Upstream(settings, instance, address, gateway)
        if settings.model:
            instance.models = (settings.model,)
        gateway.registry.add(instance)
        gateway.engines[instance.instance_id] = upstream
        if known is not None and known.detected is not None and known.settings.url == settings.url:
            upstream.adopt(known.detected)
            upstream.sleep = known.sleep
            upstream.health.probe_ok(time.monotonic())
            upstream.sync()
        if detected is not None:
            upstream.start_as(detected)
            self._replicas.listed(upstream, new=True)
            upstream.sync()
        self._looked[instance.instance_id] = asyncio.Event()
        if not awaited:
            self._unawaited.add(instance.instance_id)
        self._watchers[instance.instance_id] = asyncio.create_task(self._watch(upstream))
        gateway.instances_changed()
        return upstream

    def remove(self, name: str) -> bool:
        """Remove an instance. Requests that run on it finish."""
        upstream = self.gateway.engines.pop(name, None)
        if upstream is None:
            return False
        self.gateway.registry.remove(name)
        self.gateway.scheduler.instance_down(upstream.instance)
        self._replicas.forget(name)
        self._watchers.pop(name).cancel()
        self._looked.pop(name).set()  # releases those that wait for its first look
        self._unawaited.discard(name)
        self._configured.pop(name, None)
        self._leaving.discard(name)
        upstream.pool.close()
        self.gateway.instances_changed()
        return True

    def drain(self, name: str) -> bool:
        """Give an instance no new requests. Requests that run on it finish."""
        upstream = self.gateway.engines.get(name)
        if upstream is None:
            return False
        upstream.drained_by_admin = True
        upstream.instance.state = EngineState.DRAINING
        self.gateway.instances_changed()
        return True

    def undrain(self, name: str) -> None:
        """Give a drained instance new requests again."""
        self.gateway.engines[name].undrain()

    async def _watch(self, upstream: Upstream) -> None:
        name = upstream.instance.instance_id
        while True:
            upstream.wakeup.clear()
            try:
                if await self._may_be_asked(upstream) and await self._is_due(upstream):
                    await self._look(upstream)
            except TrustError as error:
                upstream.last_error = f"cannot be asked: {error}"
                upstream.health.probe_failed(time.monotonic(), True)
            except Exception as error:
                # The fault is ours and shows nothing about the engine, so the watch goes on.
                report(error, f"the watch of instance {name}")
                upstream.health.not_probed(time.monotonic())
            upstream.sync()
            self._log_state(upstream)
            self._looked[name].set()
            if upstream.health.is_silent or upstream.instance.state is EngineState.ASLEEP:
                upstream.pool.engine_is_silent()
            await self._rest(upstream)

    async def _rest(self, upstream: Upstream) -> None:
        """Wait until the next probe is due. A request that finds the engine or its model gone shortens the wait."""
        now = time.monotonic()
        # The shortest rest also follows a look that failed because this machine lacked something.
        soonest, look_from = now + SHORTEST_REST_S, max(now, upstream.looked_at) + LOOK_AGAIN_S
        while (left := max(soonest, self._due_at(upstream, now, look_from)) - now) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await upstream.wakeup.wait()
                    upstream.wakeup.clear()
                    self._log_state(upstream)
            now = time.monotonic()

    def _due_at(self, upstream: Upstream, now: float, look_from: float) -> float:
        at = upstream.health.next_probe_at(now)
        if upstream.look_wanted and upstream.health.state is EngineState.READY:
            return min(at, look_from)
        return at

    def _look_again(self) -> None:
        """Ask all engines for their models, because a request names one that no instance served at the last look."""
        for upstream in self.gateway.engines.values():
            upstream.look_again()

    async def _is_due(self, upstream: Upstream) -> bool:
        """Whether a detection is due: after ``REFRESH_S``, while no models are known, or when other ones are listed."""
        if time.monotonic() - upstream.detected_at >= REFRESH_S or _is_news(upstream):
            return True
        if not upstream.look_wanted or time.monotonic() - upstream.looked_at < LOOK_AGAIN_S:
            return False
        upstream.look_wanted = False
        upstream.looked_at = time.monotonic()
        before, names = upstream.detected, await self._questions.models(upstream)
        return before is not None and bool(names) and names != tuple(card.id for card in before.models)

    async def _may_be_asked(self, upstream: Upstream) -> bool:
        """Whether the engine may be asked more. A detected one is probed first: each question to a hung one would
        take another of its connections.
        """
        if upstream.detected is None:
            return True
        return await self._probe(upstream) and upstream.health.state is EngineState.READY

    async def _look(self, upstream: Upstream) -> bool:
        """Detect the engine's facts, probe it, and compare its vectors. Returns whether it is healthy."""
        settings, began = upstream.settings, time.monotonic()
        upstream.look_wanted, upstream.looked_at = False, began
        try:
            detected = await self._questions.detect(upstream)
        except DetectError as error:
            if error.asked:
                self._not_detected(upstream, error)
            else:
                self._not_asked(upstream, str(error))
            return False
        upstream.health.confirmed()
        before = upstream.detected
        # An engine that was out of service may be another one by now, with other routes.
        successor = before is None or upstream.instance.state not in _SETTLED
        if successor:
            upstream.missing_routes.clear()
        upstream.adopt(detected)
        self._replicas.listed(upstream, new=successor)
        if successor:
            upstream.sleep = SleepProbe(*upstream.dialect.sleep_paths)
        ok = await self._probe(upstream)
        awake = ok and not upstream.sleep.asleep  # an engine that sleeps answers none of these questions
        if awake and detected.engine is EngineKind.VLLM and not settings.kv_cache_tokens:
            tokens = await self._questions.kv_cache_tokens(upstream)
            upstream.instance.kv_tokens = tokens or upstream.instance.kv_tokens
        if awake and EMBEDDINGS in detected.routes:
            await self._replicas.compare_known(upstream)
        if before != detected:
            self.gateway.instances_changed()
        if ok:
            upstream.detected_at = began
        return ok

    def _not_detected(self, upstream: Upstream, error: DetectError) -> None:
        """Count a failed detection. Facts about a healthy engine hold until it reports other ones."""
        now = time.monotonic()
        if upstream.health.state is not EngineState.READY or error.refused:
            upstream.last_error = str(error)
            upstream.health.probe_failed(now, error.refused)
        elif error.definite:
            upstream.last_error = str(error)
            upstream.health.contradicted(now)

    async def _probe(self, upstream: Upstream) -> bool:
        result = await self._questions.health(upstream)
        if not result.asked:
            self._not_asked(upstream, str(result.error))
        elif result.ok:
            upstream.health.probe_ok(time.monotonic())
            upstream.last_error = upstream.withheld
        else:
            upstream.health.probe_failed(time.monotonic(), result.refused)
            upstream.last_error = result.error or f"/health answered {result.status}"
        return bool(result.ok)

    def _not_asked(self, upstream: Upstream, why: str) -> None:
        """Keep the engine's state, because this machine lacked the resources for a probe."""
        upstream.health.not_probed(time.monotonic())
        if upstream.health.state is not EngineState.READY:
            upstream.last_error = why
        self.gateway.descriptors.report(f"instance {upstream.instance.instance_id} was {why}")

    def _log_state(self, upstream: Upstream) -> None:
        state = upstream.instance.state
        logged = (state, state is EngineState.STARTING and upstream.lists_nothing)
        if logged == upstream.logged:
            return
        upstream.logged = logged
        name = upstream.instance.instance_id
        if state is EngineState.READY:
            models = ", ".join(upstream.instance.models)
            log.info("instance %s is ready: %s, serving %s", name, upstream.instance.engine.value, models)
        elif upstream.last_error is None:
            log.info("instance %s is %s", name, state.value)
        else:
            log.warning("instance %s is %s: %s", name, state.value, upstream.last_error)


def _is_news(upstream: Upstream) -> bool:
    """Whether the engine's models are not known, or it just woke: asleep it could not be asked for vectors."""
    state = upstream.instance.state
    return state not in _SETTLED or (state is EngineState.ASLEEP and not upstream.sleep.asleep)
