"""Usage while the disk is full: kept over a restart, a stop and a kill, and stored when there is room again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import sage
from tests.support.gateway import free_port
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller

USED = '{"usage":{"prompt_tokens":70,"completion_tokens":7,"total_tokens":77}}'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        sage(folder, "stop", "--force")
        subprocess.run(["umount", "--lazy", folder], check=True)


def until(wanted: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def usage_in_status(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sage(home, "status", "--json").stdout)["usage"]
    return found


def requests_of(home: Path) -> int:
    return int(json.loads(sage(home, "usage", "--json").stdout)["total"]["requests"])


def test_no_usage_is_lost_on_a_full_disk_however_the_gateway_ends(disk: Path) -> None:
    port, fill, reserve = free_port(), disk / "fill", disk / "state" / "usage.reserve"
    with RogueEngine(ok(USED)) as engine:
        start = (
            "start",
            "--background",
            "--wait",
            "engines",
            "--port",
            str(port),
            "--llm-backend",
            engine.url,
        )

        def ask(times: int) -> None:
            with Caller(port) as caller:
                for _ in range(times):
                    assert caller.chat(user="ann").reply().status == 200

        def waiting(requests: int) -> bool:
            found = usage_in_status(disk)
            assert (found["problem"] is not None) or not found["waiting_requests"]
            return bool(found["waiting_requests"] == requests)

        assert sage(disk, *start).returncode == 0
        until(reserve.exists)
        with fill.open("wb") as file:
            while True:
                try:
                    os.write(file.fileno(), bytes(4096))
                except OSError:
                    break
        ask(3)
        assert sage(disk, "restart").returncode == 0
        until(lambda: waiting(3))
        ask(2)
        shown = sage(disk, "status")
        assert "requests is not stored yet: " in shown.stderr
        assert "disk is full" in shown.stderr
        assert sage(disk, "stop").returncode == 0
        assert requests_of(disk) == 5  # read from the reserve
        assert sage(disk, *start).returncode == 0
        ask(1)
        until(lambda: waiting(6))
        os.kill(json.loads(sage(disk, "status", "--json").stdout)["pid"], signal.SIGKILL)
        until(lambda: sage(disk, "status").returncode != 0)
        failed = sage(disk, *start)
        assert (failed.returncode, "hint: make room on the disk" in failed.stderr) == (1, True)
        fill.unlink()
        assert sage(disk, *start).returncode == 0
        until(lambda: usage_in_status(disk)["problem"] is None and waiting(0))
        assert requests_of(disk) == 6
        assert usage_in_status(disk)["lost_requests"] == 0
