"""One run of the gateway, from taking the lock to releasing it."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_inference._version import __version__
from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags, LoggingSettings, Settings
from sage_inference.daemon import init, logfile
from sage_inference.daemon.bind import bind
from sage_inference.daemon.config_watch import ConfigWatch
from sage_inference.daemon.directories import ensure
from sage_inference.daemon.errors import LOG_HINT, DaemonError, PortTaken
from sage_inference.daemon.handover import Takeover
from sage_inference.daemon.hangup import TerminalHangup
from sage_inference.daemon.launch_spec import has_literal_key, recordable
from sage_inference.daemon.lock import Lock
from sage_inference.daemon.notify import Notifier
from sage_inference.daemon.open_files import allow_open_files
from sage_inference.daemon.own_files import OwnFiles
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.process import Process
from sage_inference.keeper.own_unit import is_restarting

if TYPE_CHECKING:
    from sage_inference.server import EngineRun, RunHooks, RunningGateway

log = logging.getLogger("sage_inference.daemon")

_KILL_S = 15.0  # beyond an engine's grace, until its processes are killed and gone


def run(
    paths: Paths,
    flags: Flags,
    *,
    background: bool = False,
    config_required: bool = False,
    on_settings: Callable[[Settings], None] | None = None,
    on_ready: Callable[[dict[str, Any]], None] | None = None,
    takeover: Takeover | None = None,
    colour: bool | None = None,
) -> None:
    """Serve until a signal ends the run. ``on_ready`` gets the status document, once, when the gateway answers.

    ``on_settings`` gets the settings when they are read. ``colour`` is False for a terminal without colours.
    With ``takeover``, the lock and perhaps the socket come from the gateway that is relieved.

    Raises ``AlreadyRunning``, ``ConfigError``, ``BindError`` or another ``DaemonError`` before that.
    """
    is_first = init.needed()
    if is_first:
        init.stand_in()
    notifier = Notifier.from_environ(os.environ)
    ensure(paths)
    hangup = TerminalHangup(background=background)
    own_files: OwnFiles | None = None
    run: _Run | None = None
    with _ends_in_order(hangup):
        try:
            own_files = OwnFiles(paths, None if takeover else Lock.take(paths.lock_file))
            run = _Run(paths, flags, notifier, background, config_required, hangup, own_files, takeover)
            run.colour = colour
            run.supervised = not background and (is_first or notifier.listened_to or _started_by_systemd())
            run.serve(on_settings, on_ready)
        except (SystemExit, KeyboardInterrupt):
            if takeover is None and (run is None or not run.ran):
                own_files = _end_kept_engines(paths, flags, own_files)
            raise
        finally:
            if own_files is not None:
                own_files.close()


def load_settings(
    paths: Paths, flags: Flags, *, config_required: bool = False, served: str | None = None
) -> Settings:
    """Flags over environment over file over defaults, checked. Raises ``ConfigError``.

    ``served`` is the fingerprint of the certificate that the running gateway has.
    """
    from sage_inference.config import flags as config_flags
    from sage_inference.config.load import load

    settings = config_flags.apply(load(paths.config_file, required=config_required), flags)
    config_flags.check(settings, served=served)
    return settings


def _end_kept_engines(paths: Paths, flags: Flags, own_files: OwnFiles | None) -> OwnFiles | None:
    """End the engines of an earlier gateway, if a stop came before this one could adopt them.

    Afterwards the server decides which engines end. The lock must be held, because a gateway that runs keeps its engines.
    The signal may have come within the call that took it, so it is taken again. Returns what holds it.
    """
    if flags.no_engines or is_restarting():
        return own_files
    if own_files is None:
        try:
            own_files = OwnFiles(paths, Lock.take(paths.lock_file))
        except DaemonError:
            return None
    from sage_inference.keeper.client import stop_all

    ended = stop_all(paths.state_dir, left=lambda name, reason: log.warning("%s: %s", name, reason))
    if ended:
        log.info("ended the engines of an earlier gateway: %s", ", ".join(ended))
    return own_files


class _Run:
    """The state of one run. ``info`` is the pidfile's content."""

    def __init__(
        self,
        paths: Paths,
        flags: Flags,
        notifier: Notifier,
        background: bool,
        config_required: bool,
        hangup: TerminalHangup,
        own_files: OwnFiles,
        takeover: Takeover | None,
    ) -> None:
        self.paths = paths
        self.flags = flags
        self.notifier = notifier
        self.background = background
        self.config_required = config_required
        self.hangup = hangup
        self.own_files = own_files
        self.takeover = takeover
        self.colour: bool | None = None  # of the log on a terminal; None leaves it to the environment
        self.supervised = False  # a supervisor would start another one, or the container would end
        self.token = secrets.token_urlsafe(32)
        self.info: PidInfo | None = None
        self.settings = Settings()
        self.watch = ConfigWatch(paths.config_file)
        self.ran = False  # to its end, in order
        self.certificate: str | None = None  # the fingerprint of the one that callers see
        self.manages = False  # whether there are engines, which the end of the gateway waits for

    def serve(
        self,
        on_settings: Callable[[Settings], None] | None,
        on_ready: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._log_to(LoggingSettings())  # before the configuration is read, so that its errors are logged too
        logfile.log_uncaught()
        from sage_inference.config.warnings import warnings_of

        try:
            settings = self.settings = self._load()
            self._log_to(settings.logging)
            if on_settings is not None:
                on_settings(settings)
            for remark in warnings_of(settings):
                log.warning("%s", remark)
            listen = self._listener(settings)
        except Exception as error:
            if self.background:  # in the foreground the command shows the error
                log.error("not started: %s", error)
            raise
        self._serve_on(listen, settings, on_ready)

    def _listener(self, settings: Settings) -> Callable[[], socket.socket]:
        """Bind the address, as far as that is possible now. The function returned makes the socket later."""
        host, port = settings.server.host, settings.server.port
        if self.takeover is None:
            sock = _bind(host, port)
            self._note(self._describe(sock, settings))
            return lambda: sock
        takeover = self.takeover
        takeover.bind(host, port)

        def taken() -> socket.socket:
            sock = takeover.listen()
            self._note(self._describe(sock, settings))
            return sock

        return taken

    def _serve_on(
        self,
        listen: Callable[[], socket.socket],
        settings: Settings,
        on_ready: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        import asyncio

        allow_open_files(settings.limits.connections)
        from sage_inference import server

        serving = server.run(
            settings,
            listen=listen,
            load=self._load,
            changed=self.watch.look,
            admin_token=self.token,
            simulate=self.flags.simulate,
            hooks=self._hooks(on_ready),
            hangup=self.hangup,
            engines=self._engines(),
            usage_file=self.paths.usage_file,
            sources_folder=self.paths.sources_folder,
        )
        try:
            with asyncio.Runner(loop_factory=server.new_event_loop) as runner:
                runner.run(serving)
                self.ran = True
        except server.SimulatorError as error:
            raise DaemonError(str(error), LOG_HINT) from error
        log.info("stopped")

    def _engines(self) -> EngineRun | None:
        from sage_inference import server

        flags = self.flags
        if flags.no_engines:
            return None
        llm = "llm", flags.llm_model, flags.llm_backends
        embedding = "embedding", flags.embedding_model, flags.embedding_backends
        models = server.models_of([llm, embedding])
        return server.EngineRun(self.paths.state_dir, models, flags.simulate, self.takeover is not None)

    @property
    def _end_s(self) -> float:
        """The time that a stop takes at most."""
        settings = self.settings
        return settings.timeouts.drain_s + (settings.managed.stop_grace_s + _KILL_S if self.manages else 0.0)

    def _load(self) -> Settings:
        return self.watch.read(
            partial(
                load_settings,
                self.paths,
                self.flags,
                config_required=self.config_required,
                served=self.certificate,
            )
        )

    def _log_to(self, settings: LoggingSettings) -> None:
        stream = None if self.background else sys.stderr
        logfile.configure(self.paths.log_file, settings, stream=stream, colour=self.colour)

    def _hooks(self, on_ready: Callable[[dict[str, Any]], None] | None) -> RunHooks:
        from sage_inference.server import RunHooks

        def serving(running: RunningGateway) -> None:
            from sage_inference.daemon.serving_socket import ServingSocket

            if self.takeover is not None:
                self.own_files.adopt(Lock.adopt(self.paths.lock_file, *self.takeover.done()))
            self.own_files.keep(ServingSocket(running))
            running.gateway.sessions.keep_in(self.paths.state_dir)

        def ready(status: dict[str, Any]) -> None:
            self._update(phase="running")
            log.info("serving on %s, pid %d", status["address"], os.getpid())
            self.notifier.ready(f"serving on {status['address']}")
            gc.freeze()  # a full collection pauses the process, and need not look at the objects of the start
            if on_ready is not None:
                on_ready(status)

        def stopping() -> None:
            self.own_files.refuse()
            self._update(phase="stopping")
            self.notifier.stopping("finishing running requests")

        def certified(fingerprint: str) -> None:
            self.certificate = fingerprint
            if self.info is not None:  # otherwise the socket is a predecessor's so far
                self._update(certificate=fingerprint)

        def configured(settings: Settings) -> None:
            self._log_to(settings.logging)
            self.settings = settings
            note_end()

        def note_end() -> None:
            if self.info is not None and self.info.drain_s != self._end_s:
                self._update(drain_s=self._end_s)

        def engines(manages: bool) -> None:
            self.manages = manages
            note_end()

        def each_second() -> None:
            self.notifier.watchdog()
            self.hangup.look()

        return RunHooks(
            serving=serving,
            ready=ready,
            stopping=stopping,
            ended=self.own_files.report_end,
            reloading=self.notifier.reloading,
            certified=certified,
            configured=configured,
            reloaded=self.notifier.ready,
            watchdog=each_second,
            engines=engines,
            relieved=lambda: self.own_files.left,
            restarts=is_restarting,
        )

    def _describe(self, sock: socket.socket, settings: Settings) -> PidInfo:
        me = Process.current()
        host, port = sock.getsockname()[:2]
        return PidInfo(
            pid=me.pid,
            create_time=me.create_time,
            host=host,
            port=port,
            config_path=str(self.paths.config_file),
            log_path=str(self.paths.log_file),
            version=__version__,
            started_at=time.time(),
            admin_token=self.token,
            drain_s=self._end_s,
            simulate=self.flags.simulate,
            background=self.background,
            supervised=self.supervised,
            directory=_directory(),
            flags=recordable(self.flags),
            needs_api_key=has_literal_key(self.flags),
            certificate=self.certificate,
        )

    def _note(self, info: PidInfo) -> None:
        self.info = info
        self.own_files.note(info)

    def _update(self, **changes: Any) -> None:
        """Write the pidfile again. A full disk is logged only, because it must not stop a serving gateway."""
        assert self.info is not None
        try:
            self._note(replace(self.info, **changes))
        except DaemonError as error:
            log.warning("%s", error)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except PortTaken as taken:
        from sage_inference.daemon.occupant import engine_hint

        taken.hint = engine_hint(host, port)
        raise


def _started_by_systemd() -> bool:
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


@contextmanager
def _ends_in_order(hangup: TerminalHangup) -> Iterator[None]:
    """Raise ``SystemExit`` on SIGTERM, before and after the server handles signals, so that clean-up runs."""

    def end(number: int, _: object) -> None:
        # A second SIGTERM must not interrupt the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    def hang_up(number: int, frame: object) -> None:
        # Any other SIGHUP has no effect, because there is nothing to reload yet.
        if hangup.terminal_is_gone():
            end(number, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, end)
    if not hangup.ignored:
        signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - Path.cwd() is the same with more imports
    except OSError:
        return None
