"""The engines of ``--simulate`` are there while they are needed, and never longer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from sage_inference.engines.processes.simulated import SimulatorError, simulated_engines, start

ROOT = Path(__file__).resolve().parents[3]
PARENT = """
import asyncio
from sage_inference.engines.processes.simulated import start
async def main():
    engines = [await start(kind) for kind in ("vllm", "tei")]
    print(*(engine.process.pid for engine in engines), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_one_engine_of_each_kind_answers_and_both_are_stopped() -> None:
    async def scenario() -> list[str]:
        async with (
            simulated_engines() as instances,
            httpx.AsyncClient(trust_env=False, verify=False) as client,
        ):
            assert [one.name for one in instances] == ["simulated-vllm", "simulated-tei"]
            for one in instances:
                assert (await client.get(f"{one.url}/health")).status_code == 200
            return [one.url for one in instances]

    for url in asyncio.run(scenario()):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False, verify=False)


def test_stop_is_orderly() -> None:
    async def scenario() -> int:
        return await (await start("tei")).stop()

    assert asyncio.run(scenario()) == 0


def test_engines_die_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    with parent.stdout:
        engines = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(engines) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    _, alive = psutil.wait_procs(engines, timeout=10)
    # Where nothing reaps orphans, a dead one stays a zombie.
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_engine_that_cannot_start_is_reported() -> None:
    with pytest.raises(SimulatorError, match="the simulated vllm ended with status 2 before it was ready"):
        asyncio.run(start("vllm", ["--no-such-option"]))
