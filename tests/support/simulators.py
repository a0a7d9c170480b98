"""Simulated engines as real processes, for tests: start one, break it, ask what it saw."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.python_path import led_by

READY_S = 20.0
_ROOT = Path(__file__).resolve().parents[2]


class EngineNotReadyError(Exception):
    """The simulator ended, or said nothing in time."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as the engine received it, byte for byte."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first of that name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class SimulatedEngine:
    """A running simulator. It ends with this process, however that ends.

    Faults, records and waiting go over a port of their own, which works under every fault.
    """

    def __init__(self, kind: str, args: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sage_inference.simulator", kind, "--exit-with-parent", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": led_by(_ROOT)},
            start_new_session=True,
        )
        try:
            ready = self._ready_line()
        except BaseException:
            self.close()
            raise
        self.kind = kind
        self.url: str = ready["url"]
        self.host: str = ready["host"]
        self.port: int = ready["port"]
        self.pid: int = ready["pid"]
        self.models: list[str] = ready["models"]
        self._control = httpx.Client(
            base_url=f"http://{self.host}:{ready['control_port']}/simulator",
            trust_env=False,
            verify=False,  # there is no TLS, and to load certificates takes 20 ms
            timeout=30,
        )

    @property
    def model(self) -> str:
        return self.models[0]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            **{"base_url": self.url, "trust_env": False, "verify": False, "timeout": 30, **options}
        )

    def faults(self, faults: Sequence[dict[str, Any]] = (), /, **switches: Any) -> None:
        """Set what goes wrong from now on: one fault as keywords, or several as a list. Replaces all before."""
        given: Any = list(faults) + ([switches] if switches else [])
        self._checked(self._control.post("/faults", json=given))

    def heal(self) -> None:
        self.faults()

    def requests(
        self, last: int = 1, *, route: str | None = None, probes: bool = False
    ) -> list[RecordedRequest]:
        """The newest POSTs (or, with ``probes``, all other requests), the newest at the end."""
        query: dict[str, Any] = {"last": last}
        query |= {"route": route} if route else {}
        query |= {"probes": 1} if probes else {}
        found = self._checked(self._control.get("/requests", params=query))["requests"]
        return [
            RecordedRequest(
                one["method"],
                one["path"],
                one["query"],
                [(name, value) for name, value in one["headers"]],
                base64.b64decode(one["body"]),
            )
            for one in found
        ]

    def stats(self) -> dict[str, Any]:
        return self._checked(self._control.get("/stats"))

    def wait(self, *, timeout_s: float = 10.0, **reached: float) -> dict[str, Any]:
        """Wait until the stats reach these figures (0 means exactly 0), such as ``disconnects=3``."""
        answer = self._control.get(
            "/wait", params={**reached, "timeout_s": timeout_s}, timeout=timeout_s + 10
        )
        if answer.status_code == 504:
            raise AssertionError(f"not reached within {timeout_s:g} s: {reached}; stats: {answer.json()}")
        return self._checked(answer)

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM: it finishes what runs. Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, as when an engine's machine goes."""
        self.process.kill()
        self.process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: it is there and does nothing, its control port included."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it however it is."""
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if hasattr(self, "_control"):
            self._control.close()

    def _ready_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], READY_S)[0]:
            raise EngineNotReadyError(f"no ready line within {READY_S:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise EngineNotReadyError(f"ended with status {self.process.wait(10)} before it was ready")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _checked(self, answer: httpx.Response) -> dict[str, Any]:
        document: dict[str, Any] = answer.json()
        assert answer.is_success, document
        return document


@contextmanager
def simulated_engine(kind: str, *args: str) -> Iterator[SimulatedEngine]:
    """``kind`` is ``vllm`` or ``tei``; ``args`` are the simulator's own options, such as ``--speed instant``."""
    engine = SimulatedEngine(kind, args)
    try:
        yield engine
    finally:
        engine.close()
