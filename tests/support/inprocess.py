"""A gateway on a thread of this process, on a real socket: for tests that look at its state from outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.server import EngineRun, RunHooks, RunningGateway, new_event_loop

T = TypeVar("T")


ADMIN_TOKEN = "token-of-the-test"
ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}"}  # what /admin of an ``InProcess`` asks for


class InProcess:
    """A running gateway, and a way to ask its event loop for facts."""

    usage_file: Path | None = None  # where it keeps its usage, if it keeps any
    sources_folder: Path | None = None  # where it keeps the lists of its sources

    def __init__(self, settings: Settings, engines: EngineRun | None = None) -> None:
        self._engines = engines
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._sock.getsockname()[1]
        self._settings = settings
        self.settings_to_load = settings
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: RunningGateway | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> RunningGateway:
        assert self._running is not None
        return self._running

    def ask(self, question: Callable[[RunningGateway], T]) -> T:
        """The answer of ``question``, asked on the gateway's own thread."""
        assert self._loop is not None

        async def asked() -> T:
            return question(self.running)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(10)

    def hold(self, held: threading.Event, go: threading.Event) -> None:
        """Hold the event loop until ``go`` is set; ``held`` is set when it is held."""
        assert self._loop is not None

        def wait() -> None:
            held.set()
            go.wait(10)

        self._loop.call_soon_threadsafe(wait)

    def until(self, fact: Callable[[RunningGateway], Any], seconds: float = 10) -> None:
        """Wait until a fact about the gateway holds; checked after each turn of its event loop."""
        assert self._loop is not None

        async def watch() -> None:
            while not fact(self.running):
                await asyncio.sleep(0.002)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(watch(), seconds), self._loop).result(seconds + 5)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20), "the gateway did not start"
        if self._failure is not None:
            raise self._failure

    def stop(self, at_once: bool = True) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(lambda: self.running.stop(at_once=at_once))
            self._thread.join(30)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            hooks = RunHooks(ready=lambda _: self._ready.set())
            self._running = RunningGateway(
                self._settings,
                load=lambda: self.settings_to_load,
                admin_token=ADMIN_TOKEN,
                hooks=hooks,
                engines=self._engines,
                usage_file=self.usage_file,
                sources_folder=self.sources_folder,
            )
            await self._running.serve(self._sock)

        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()


@contextlib.contextmanager
def gateway(*engines: Any, **settings: Any) -> Iterator[InProcess]:
    """A gateway before ``engines`` (anything with a ``url``, or ``InstanceSettings``).

    ``usage_file``: where it keeps usage. ``sources_folder``: where it keeps the lists of its sources.
    """
    usage_file, sources_folder = settings.pop("usage_file", None), settings.pop("sources_folder", None)
    instances = tuple(
        engine
        if isinstance(engine, InstanceSettings)
        else InstanceSettings(url=engine.url, name=f"e{number}", kind="mixed")
        for number, engine in enumerate(engines)
    )
    process = InProcess(Settings(instances=instances, **settings))
    if usage_file is not None:  # otherwise that of the class counts, which tests set
        process.usage_file = usage_file
    process.sources_folder = sources_folder
    try:
        process.start()
        yield process
    finally:
        process.stop()
