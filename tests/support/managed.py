"""A gateway in this process with managed engines: real keepers, simulated engines, a state directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings, Settings
from sage_inference.keeper.client import stop_all
from sage_inference.server import EngineRun, RunningGateway
from tests.support.inprocess import ADMIN, InProcess

CHAT = ManagedEngineSettings(model="org/chat", engine="vllm")
EMBED = ManagedEngineSettings(model="org/embed", engine="tei", kind="embedding")
# Ports that no gateway of another worker takes between the choice of one and the engine's bind.
_FIRST = 18_500 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
COMMON = ManagedSettings(stop_grace_s=5, supervisor="plain", offline=True, ports=f"{_FIRST}-{_FIRST + 99}")


class ManagedGateway(InProcess):
    """``settings_to_load`` are those of the next reload."""

    def __init__(
        self,
        state_dir: Path,
        *engines: ManagedEngineSettings,
        run: EngineRun | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.state_dir = state_dir
        super().__init__(
            settings or Settings(engines=engines, managed=COMMON), run or EngineRun(state_dir, simulates=True)
        )
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def stop(self, at_once: bool = True) -> None:
        super().stop(at_once)
        self.http.close()

    def keep(self) -> None:
        """The engines run on when the gateway stops."""
        assert self.http.post("/admin/engines/keep", headers=ADMIN).status_code == 200

    def engine(self, name: str) -> dict[str, Any]:
        found = self.http.get("/admin/engines", headers=ADMIN).json()["engines"]
        return next(each for each in found if each["name"] == name)

    def order(self, name: str, what: str) -> httpx.Response:
        return self.http.post(f"/admin/engines/{name}/{what}", headers=ADMIN)

    def state(self, name: str, *states: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until the engine is in one of the states."""

        def is_there(running: Any) -> bool:
            engine = running.managed.engines.get(name)
            return engine is not None and engine.state.value in states

        self.until(is_there, seconds)
        return self.engine(name)

    def restarted(self, before: dict[str, Any]) -> dict[str, Any]:
        """Wait until the engine of this former document was started once more, and is ready."""
        name, restarts = before["name"], before["restarts"] + 1

        def is_there(running: Any) -> bool:
            engine = running.managed.engines[name]
            return bool(engine.machine.restarts == restarts and engine.state.value == "ready")

        self.until(is_there, 30)
        return self.engine(name)

    def runs(self, name: str) -> int:
        """The number of processes that the engine has had in this gateway."""

        def count(running: RunningGateway) -> int:
            assert running.managed is not None
            return running.managed.engines[name].machine.run

        return self.ask(count)

    def chat(self, model: str = "org/chat", **more: Any) -> httpx.Response:
        body = {"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}], **more}
        return self.http.post("/v1/chat/completions", json=body)

    def stream(self, model: str) -> str:
        """The body of a streamed chat, also of one that breaks off."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        pieces = []
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            with contextlib.suppress(httpx.RemoteProtocolError):
                for piece in answer.iter_text():
                    pieces.append(piece)  # noqa: PERF402 - what came before the end must not be lost
        return "".join(pieces)

    def embed(self, model: str = "org/embed") -> httpx.Response:
        return self.http.post("/v1/embeddings", json={"model": model, "input": "a text"})

    def reload(self, *engines: ManagedEngineSettings) -> dict[str, Any]:
        self.settings_to_load = Settings(engines=engines, managed=COMMON)
        answer = self.http.post("/admin/reload", headers=ADMIN)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def managed(state_dir: Path, *engines: ManagedEngineSettings) -> Iterator[ManagedGateway]:
    gateway = ManagedGateway(state_dir, *engines)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()
        stop_all(state_dir, 0)


def processes(state_dir: Path) -> list[int]:
    """The keepers and engines of a state directory, found in /proc."""
    found = []
    for directory in (state_dir / "engines").glob("*/engine.json"):
        document = json.loads(directory.read_text())
        for pid in (document["keeper_pid"], document["engine_pid"]):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found += [pid, *(child.pid for child in process.children(recursive=True))]
    return found


def adoption_s(log_file: Path, offset: int) -> float:
    """Seconds from a gateway's first log line after ``offset`` until the last engine that it adopted is served."""
    lines = [json.loads(line) for line in log_file.read_bytes()[offset:].decode().splitlines()]
    assert any("is adopted" in line["message"] for line in lines)
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    served = [at for at, line in zip(times, lines, strict=True) if _is_served(line["message"])]
    return served[-1] - times[0]


def _is_served(message: str) -> bool:
    return message.startswith("instance ") and " is ready" in message


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def gone(pids: list[int], seconds: float = 20) -> None:
    """Wait until none of the processes is left."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
