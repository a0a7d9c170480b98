"""A gateway before the stream engine, with and without viewers of its live state."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench.errors import BenchError
from tests.bench.home import scratch_folder
from tests.bench.load.runner import run_load
from tests.bench.machine import CoreWatch
from tests.bench.mock import stream
from tests.bench.process import LOAD_CORE, ROOT, Process, wait_for
from tests.bench.scenarios.base import Figures
from tests.bench.targets.base import Target
from tests.bench.targets.ours import ours
from tests.support.gateway import free_port

CALLERS = 64
_CHUNKS, _PACED_US = 20, 10_000


@dataclass(frozen=True, slots=True)
class Scene:
    gateway: Target
    engine_pid: int

    @property
    def url(self) -> str:
        return self.gateway.urls["stream"]

    def cpu_s(self) -> float:
        return self.gateway.cpu_s("stream")

    def resident_mib(self) -> float:
        return self.gateway.resident_kib("stream") / 1024

    @contextmanager
    def viewers(self, count: int) -> Iterator[None]:
        """They all have their first document. ``count`` may be 0."""
        if not count:
            yield
            return
        command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "tests.bench.viewers.watching"]
        with subprocess.Popen(
            [*command, self.url, str(count)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise BenchError("the viewers ended before all of them watched")
                yield
                if process.poll() is not None:
                    raise BenchError("the viewers ended while they were needed")
            finally:
                process.terminate()

    def idle(self, seconds: float) -> Figures:
        """The gateway's share of a core while no request comes."""
        return self._with_others(lambda: self._idle(seconds))

    def _idle(self, seconds: float) -> Figures:
        before, began = self.cpu_s(), time.monotonic()
        time.sleep(seconds)
        return {"core_pct": 100 * (self.cpu_s() - before) / (time.monotonic() - began)}

    def streams(self, seconds: float) -> Figures:
        """Callers in a closed loop, each with streams of 20 chunks as fast as they go."""
        return self._with_others(lambda: self._loaded(seconds, 0))

    def paced(self, seconds: float) -> Figures:
        """The same with 100 chunks a second in each stream: far below the gateway's limit, so that delays show."""
        return self._with_others(lambda: self._loaded(seconds, _PACED_US))

    def _loaded(self, seconds: float, gap_us: int) -> Figures:
        marks: list[tuple[float, float]] = []
        found = run_load(
            "short_streams",
            lambda: marks.append((self.cpu_s(), time.monotonic())),
            url=self.url,
            model=stream.MODEL,
            callers=CALLERS,
            chunks=_CHUNKS,
            gap_us=gap_us,
            seconds=seconds,
        )
        (cpu0, began), (cpu1, ended) = marks
        requests = found["requests"] or 0
        return found | {
            "core_pct": 100 * (cpu1 - cpu0) / (ended - began),
            "cpu_us": (cpu1 - cpu0) / requests * 1e6 if requests else None,
        }

    def _with_others(self, measured: Callable[[], Figures]) -> Figures:
        watch = CoreWatch(self.gateway.processes("stream"), (self.engine_pid,))
        return measured() | watch.others()


@contextmanager
def scene() -> Iterator[Scene]:
    """The engine runs on the load's core, and the gateway alone on its own."""
    with ExitStack() as stack:
        port = free_port()
        folder = stack.enter_context(scratch_folder("engine"))
        command = [sys.executable, "-m", "tests.bench.mock.stream", str(port)]
        engine = Process(command, LOAD_CORE, folder / "engine.log")
        stack.callback(engine.stop)
        wait_for(engine, f"http://127.0.0.1:{port}/health", seconds=30)
        gateway = ours().start(stack, {"stream": f"http://127.0.0.1:{port}"}, ("stream",))
        yield Scene(gateway, engine.pid)
