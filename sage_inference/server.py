"""The server: connects settings, control plane, engines and gateway on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sage_inference.config.changes import changed_keys, restart_keys, until_restart
from sage_inference.config.check import check_reach, name_of
from sage_inference.config.errors import ConfigError
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.engines.patience import Patience
from sage_inference.engines.processes.simulated import SimulatorError as SimulatorError  # ``run`` raises it
from sage_inference.engines.processes.simulated import simulated_engines
from sage_inference.gateway.api.app import make_app
from sage_inference.gateway.api.reloading import Reloaded
from sage_inference.gateway.api.status import address_of, status_document
from sage_inference.gateway.fleet import FIRST_LOOK_S, Fleet
from sage_inference.gateway.found_engines import is_wanted
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.http_server import HttpConfig, HttpServer, drain_seconds
from sage_inference.gateway.in_process import InProcessClient
from sage_inference.gateway.key_limits.earlier_today import count_earlier_today
from sage_inference.gateway.live.feed import LiveFeed
from sage_inference.gateway.managed.engine_run import EngineRun as EngineRun
from sage_inference.gateway.managed.engine_run import models_of as models_of
from sage_inference.gateway.managed.engine_set import ManagedEngines
from sage_inference.gateway.own_certificate import OwnCertificate
from sage_inference.gateway.protocol import GatewayProtocol
from sage_inference.gateway.signals import Hangup as Hangup
from sage_inference.gateway.signals import following_signals
from sage_inference.gateway.sources import Sources
from sage_inference.gateway.trimming import Trimming
from sage_inference.telemetry.usage_meter import UsageMeter
from sage_inference.wire.event_loop import new_event_loop as new_event_loop
from sage_inference.wire.isolation import report
from sage_inference.wire.timers import TimerWheel

WATCH_S = 0.5  # between two looks at the configuration file
OWN_ENGINES_S = 15.0  # the longest wait until simulated engines are ready

log = logging.getLogger("sage_inference.server")


def _nothing(*_: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Functions that a server calls when its state changes."""

    serving: Callable[[RunningGateway], None] = _nothing  # before ``ready``
    ready: Callable[[dict[str, Any]], None] = _nothing
    stopping: Callable[[], None] = _nothing
    ended: Callable[[dict[str, int]], None] = _nothing  # the counts of ``RequestEnds``
    reloading: Callable[[], None] = _nothing
    certified: Callable[[str], None] = _nothing  # the fingerprint of a certificate, before a caller sees it
    configured: Callable[[Settings], None] = _nothing  # after a reload that applied new settings
    reloaded: Callable[[], None] = _nothing
    watchdog: Callable[[], None] = _nothing
    engines: Callable[[bool], None] = _nothing  # whether engines are managed, when that changes
    relieved: Callable[[], bool] = bool  # whether another gateway took this one's place
    restarts: Callable[[], bool] = bool  # whether a supervisor starts this gateway again at once; may block


class RunningGateway:
    """One gateway from start to stop: its state, its engines, its HTTP server."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings] | None = None,
        admin_token: str | None = None,
        hooks: RunHooks | None = None,
        extra_instances: tuple[InstanceSettings, ...] = (),
        discovers: bool = False,
        engines: EngineRun | None = None,
        changed: Callable[[], bool] | None = None,
        usage_file: Path | None = None,
        sources_folder: Path | None = None,
    ) -> None:
        """``discovers``: whether ``settings.discover`` has an effect. A program names its engines itself.

        Without ``engines`` the gateway starts none, and without ``usage_file`` it keeps no record of usage. Without
        ``sources_folder`` it keeps no lists of its sources. ``changed`` returns whether ``load`` should be called
        again. It may block.
        """
        self.hooks = hooks or RunHooks()
        self._load = load or (lambda: settings)
        self._changed = changed
        self._loaded = settings
        self._extra = extra_instances
        self._discovers = discovers
        self._engine_run = engines
        self.wheel = TimerWheel(asyncio.get_running_loop())
        # If no token is given, a random one closes /admin to all requests but those with ``admin_key``.
        token = admin_token or secrets.token_urlsafe(32)
        with_extra = self._with_extra(settings)
        self.gateway = Gateway(with_extra, self.wheel, token)
        if settings.server.tls_cert is not None:
            self.gateway.certificate = OwnCertificate(settings.server, self.hooks.certified)
        self.gateway.found.wanted = discovers and is_wanted(with_extra)
        self.fleet = Fleet(self.gateway)
        self.gateway.sources = self.sources = Sources(self.fleet, sources_folder)
        self.managed = (
            None if engines is None else ManagedEngines(self.gateway, self.fleet, engines.state_dir)
        )
        if self.managed is not None:
            self.gateway.found.ours = self.managed.ours
            self.managed.on_change = self._engines_changed
        self.callers = InProcessClient(self._accept, self.gateway.loop_batch)
        self.feed = LiveFeed(self.gateway, self.managed)
        if usage_file is not None:
            self.gateway.usage = UsageMeter(self.gateway.stats.tally, usage_file, settings.usage)
        self.app = make_app(self.gateway, self.fleet, self.callers, self.reload, self.feed, self.managed)
        config, patience = HttpConfig(self.gateway, self.app), Patience(lambda: self.wheel.now)
        self.server = HttpServer(config, self._started, self.hooks.ended, patience)
        self.gateway.callers = self.server.server_state.connections  # type: ignore[assignment]

    def _engines_changed(self) -> None:
        assert self.managed is not None
        self.hooks.engines(bool(self.managed.engines))

    def _started(self) -> None:
        self.hooks.serving(self)
        if self.managed is not None and self._engine_run is not None and self._engine_run.passive:
            self.managed.take_over()
            self.managed.declare_missing(self._engine_run)
        self.gateway.descriptors.renew()  # every file that stays open for the whole run is open now
        limit = self.gateway.connection_limit
        if limit.by_system:
            log.info(
                "at most %d connections of callers (limits.connections is %d): the system grants %d open files",
                limit.most,
                limit.configured,
                self.gateway.descriptors.granted,
            )
        self.hooks.ready(status_document(self.gateway, self.managed))

    def _with_extra(self, settings: Settings) -> Settings:
        if self._engine_run is not None:
            settings = self._engine_run.applied(settings)
        return replace(settings, instances=settings.instances + self._extra) if self._extra else settings

    def _complete(self, settings: Settings) -> Settings:
        """``settings`` with our own engines, or with those that were found."""
        settings, found = self._with_extra(settings), self.gateway.found
        found.wanted = self._discovers and is_wanted(settings)
        return replace(settings, instances=found.instances) if found.wanted else settings

    async def serve(self, sock: socket.socket) -> None:
        """Run until ``stop``. Returns when all requests have ended or the drain time is over."""
        async with self.working():
            await self.server.serve(sockets=[sock])

    async def serve_when_ready(self, listen: Callable[[], socket.socket]) -> None:
        """Like ``serve``, but call ``listen`` for the socket, on a thread of its own, when the rest is ready."""
        async with self.working():
            self.sock = await asyncio.to_thread(listen)
            await self.server.serve(sockets=[self.sock])

    def release(self) -> None:
        """Close the listening socket only."""
        for server in self.server.servers:
            server.close()
        self.server.servers.clear()

    async def resume(self, sock: socket.socket) -> None:
        """Listen again, on another socket."""
        loop = asyncio.get_running_loop()
        accept = partial(self._protocol, self.server.config.http_protocol_class)
        self.server.servers.append(await loop.create_server(accept, sock=sock))

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run the gateway without a socket: engines are watched, and ``callers`` and ``app`` work."""
        await count_earlier_today(self.gateway.budgets, self.gateway.usage)
        tasks = [asyncio.create_task(self._pulse())]
        if self.gateway.certificate is not None:
            tasks.append(asyncio.create_task(self.gateway.certificate.watch()))
        if self._changed is not None:
            tasks.append(asyncio.create_task(self._watch_config(self._changed)))
        run, managed = self._engine_run, self.managed
        try:
            if managed is not None and run is not None:
                await managed.begin(self.gateway.settings, passive=run.passive)
            if self._discovers:
                tasks.append(await self._discover())
            await self._add_instances(self.gateway.settings)
            if managed is not None and run is not None and not run.passive:
                managed.declare_missing(run)
            # Our own engines run already, but on a busy machine their first probe may have failed.
            await self.fleet.ready(map(name_of, self._extra), OWN_ENGINES_S)
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.feed.close()
            self.gateway.waiting_room.close()
            for connection in list(self.server.server_state.connections):
                assert isinstance(connection, GatewayProtocol)
                connection.gateway_stops()
            await asyncio.sleep(0)  # lets the last bytes out
            if managed is not None:
                managed.keeps = managed.keeps or await asyncio.to_thread(self.hooks.restarts)
                await managed.close()
            await self.sources.close()
            await self.fleet.close()
            self.wheel.stop()
            await self.gateway.close()
            if self.gateway.usage is not None:
                await self.gateway.usage.close()

    async def _add_instances(self, settings: Settings) -> None:
        """Add the instances of the configuration and of its sources. Their first looks share ``FIRST_LOOK_S``."""
        self.fleet.apply(settings)
        began = self.gateway.clock()
        await self.sources.begin(settings.sources, FIRST_LOOK_S)
        await self.fleet.looked(max(0.0, FIRST_LOOK_S - (self.gateway.clock() - began)))

    async def _discover(self) -> asyncio.Task[None]:
        """Search for engines once. The task that is returned searches on."""
        found, port = self.gateway.found, self.gateway.settings.server.port
        if found.wanted and await found.look(port):
            self.gateway.configure(self._complete(self._loaded))

        def found_more() -> None:
            self._take_over(self._complete(self._loaded))

        return asyncio.create_task(found.keep_looking(port, lambda: self.gateway.can_serve, found_more))

    def _accept(self) -> asyncio.Protocol:
        """The protocol of a connection within this process, which needs no TLS."""
        if not self.server.config.loaded:
            self.server.config.load()
        return self._protocol(GatewayProtocol)

    def _protocol(self, made: Callable[..., asyncio.Protocol]) -> asyncio.Protocol:
        return made(config=self.server.config, server_state=self.server.server_state, app_state={})

    @property
    def draining(self) -> bool:
        return self.gateway.draining

    def stop(self, *, at_once: bool = False) -> None:
        """Accept no new requests and finish those under way. With ``at_once``, do not wait for them."""
        if not self.gateway.draining:
            self.gateway.draining = True
            self.server.note_requests()
            self.hooks.stopping()
            if self.managed is not None and self.hooks.relieved():
                self.managed.hand_over()
            else:
                self.gateway.waiting_room.close()
            log.info("stopping: %d requests in flight", self.gateway.in_flight)
        self.feed.close()
        self.server.end(at_once=at_once)

    def reload(self) -> Reloaded:
        """Read the configuration again and apply it. If it is invalid, raise ``ConfigError`` and change nothing."""
        self.hooks.reloading()
        try:
            loaded = self._load()
            wanted = self._complete(loaded)
            outcome = self._take_over(wanted, self._renew_certificate(wanted))
            self._loaded = loaded
            self.gateway.found.look_soon()
            self.hooks.configured(loaded)
            log.info("reloaded: %s", outcome)
            return outcome
        finally:
            self.hooks.reloaded()

    def try_reload(self) -> None:
        """Reload, and log why if the configuration cannot be applied."""
        try:
            self.reload()
        except ConfigError as error:
            log.error("configuration not applied, the old one stays: %s", error)

    async def _watch_config(self, changed: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                is_watched = self._loaded.server.watch_config and not self.gateway.draining
                # On a thread, because a file system may hang.
                if is_watched and await asyncio.to_thread(changed):
                    self.try_reload()
            except Exception as error:  # for example if no thread can be started; the next look may have one
                report(error, "the look at the configuration")

    def _renew_certificate(self, wanted: Settings) -> bool:
        """Take the files of the certificate, and return whether callers see another one. Raises ``ConfigError``."""
        certificate = self.gateway.certificate
        return certificate is not None and certificate.take(
            until_restart(self.gateway.settings, wanted).server
        )

    def _take_over(self, wanted: Settings, is_renewed: bool = False) -> Reloaded:
        before, guard = self.gateway.settings, self.gateway.guard
        settings = until_restart(before, wanted)
        check_reach(settings)  # checks the new keys with the address that stays until a restart
        self.gateway.configure(settings)
        if self.gateway.usage is not None:
            self.gateway.usage.configure(settings.usage)
        instances = self.fleet.apply(settings)
        self.sources.apply(settings.sources)
        engines = None if self.managed is None else self.managed.apply(settings)
        self.server.config.timeout_graceful_shutdown = drain_seconds(settings)
        changed = changed_keys(before, wanted)
        if not self.gateway.guard.has_keys_of(guard) and not {"api_keys", "admin_key"} & set(changed):
            changed.append("api_keys")  # the entries are the same, but their files have other keys
        if is_renewed and not {"server.tls_cert", "server.tls_key"} & set(changed):
            changed.append("server.tls_cert")
        late = restart_keys(before, wanted)
        return Reloaded(
            [*instances.added, *(engines.added if engines else ())],
            [*instances.removed, *(engines.removed if engines else ())],
            [*instances.changed, *(engines.changed if engines else ())],
            [key for key in changed if key not in late],
            [key for key in changed if key in late],
            address_of(self.gateway),
        )

    async def _pulse(self) -> None:
        """Once a second, do the work that depends on time, and report to the watchdog."""
        trimming = Trimming(self.gateway.shrink)
        while True:
            try:
                self.gateway.tick()
                self.sources.tick()
                self.hooks.watchdog()
                bodies = self.gateway.bodies
                trimming.tick(self.gateway.connections, bodies.held, bodies.most)
                bodies.most = bodies.held
                if self.gateway.decisions.unwritten:
                    await asyncio.to_thread(self.gateway.decisions.write)
                await count_earlier_today(self.gateway.budgets, self.gateway.usage)
                if self.gateway.usage is not None:
                    await self.gateway.usage.tick()
            except Exception as error:
                # For example if no thread can be started; the next second may have one.
                report(error, "the work of each second")
            await asyncio.sleep(1)


async def run(
    settings: Settings,
    *,
    listen: Callable[[], socket.socket],
    load: Callable[[], Settings],
    admin_token: str | None = None,
    simulate: bool = False,
    hooks: RunHooks | None = None,
    hangup: Hangup | None = None,
    engines: EngineRun | None = None,
    changed: Callable[[], bool] | None = None,
    usage_file: Path | None = None,
    sources_folder: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, on the socket that ``listen`` returns. ``listen`` is called when the rest is ready.

    SIGTERM drains. SIGINT drains, and a second one ends at once. SIGHUP calls ``load`` and applies the returned
    settings. A SIGHUP because the terminal was closed drains. With ``simulate``, a simulated engine of each kind runs
    until the end. Raises ``SimulatorError`` if one of them does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        extra: list[InstanceSettings] = []
        if simulate:
            named = engines.kinds_named if engines is not None else set()
            extra = await stack.enter_async_context(simulated_engines(named))
        running = RunningGateway(
            settings,
            load=load,
            admin_token=admin_token,
            hooks=hooks,
            extra_instances=tuple(extra),
            discovers=not simulate,
            engines=engines,
            changed=changed,
            usage_file=usage_file,
            sources_folder=sources_folder,
        )
        async with following_signals(running, hangup):
            await running.serve_when_ready(listen)
