"""Managed engines while their gateway is killed, restarted and stopped: real processes from the first to the last."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import admin, control
from sage_inference.daemon.pidfile import read
from sage_inference.daemon.restart import restart
from sage_inference.daemon.spawn import start_background
from sage_inference.keeper.client import stop_all
from tests.support.gateway import free_port
from tests.support.managed import adoption_s, gone, processes

MODEL = "org/chat"


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    yield found
    control.stop(found, force=True)
    stop_all(found.state_dir, 0)


def engine(paths: Paths) -> dict[str, Any]:
    info = read(paths.pid_file)
    assert info is not None
    _, document = admin.ask(info, "GET", "/admin/engines", timeout_s=5)
    found: dict[str, Any] = document["engines"][0]
    return found


def ready(paths: Paths) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (found := engine(paths))["state"] != "ready":
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_an_engine_lives_through_a_kill_and_a_restart_and_ends_with_a_stop(paths: Paths) -> None:
    flags = Flags(llm_model=MODEL, embedding_backends=("127.0.0.1:1",), simulate=True, port=free_port())
    start_background(paths, flags)
    first = ready(paths)
    assert first["model"] == MODEL

    # The gateway is killed: the next one adopts the engine before it answers.
    info = read(paths.pid_file)
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    gone([info.pid])
    assert psutil.pid_exists(first["pid"])
    offset = paths.log_file.stat().st_size
    start_background(paths, flags)
    assert adoption_s(paths.log_file, offset) < 5  # some 0.15 s where nothing else wants the CPU
    second = engine(paths)
    assert (second["state"], second["pid"], second["adopted"]) == ("ready", first["pid"], True)

    # A restart passes the engine on under a stream, which ends whole.
    url = f"http://127.0.0.1:{flags.port}/v1/chat/completions"
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": 120,
        "messages": [{"role": "user", "content": "hi"}],
    }
    begun = threading.Event()
    text: list[str] = []

    def stream() -> None:
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            for piece in answer.iter_text():
                text.append(piece)
                begun.set()

    thread = threading.Thread(target=stream)
    thread.start()
    assert begun.wait(10)
    restart(paths)
    thread.join(30)
    assert "".join(text).rstrip().endswith("data: [DONE]")
    third = engine(paths)
    assert (third["state"], third["pid"], third["restarts"]) == ("ready", first["pid"], 0)
    log = paths.log_file.read_text()
    assert "another gateway takes over 1 engines" in log

    # A stop ends the engine with its gateway.
    left = processes(paths.state_dir)
    assert len(left) >= 3, "a keeper, a server and its core"
    control.stop(paths)
    gone(left, 1)
