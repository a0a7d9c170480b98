"""The job script of docs/cluster.md runs as Slurm runs it, with a simulated engine in the place of vLLM."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.recipes.cluster_page import blocks
from tests.support.gateway import Gateway, free_port, running_gateway
from tests.support.python_path import led_by

[SCRIPT] = blocks("## Slurm", "bash")
[SOURCES] = blocks("## Slurm", "yaml")
MODEL = "Qwen/Qwen2.5-7B-Instruct"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
LACKS = [name for name in ("bash", "curl", "flock") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(LACKS), reason=f"there is no {' or '.join(LACKS)}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A home and a shared folder; ``vllm`` in its path is a simulated engine."""

    folder: Path

    @property
    def list(self) -> Path:
        return self.folder / "shared" / "engines.yaml"

    def environ(self, number: int) -> dict[str, str]:
        found = os.environ | {"PYTHONPATH": led_by(ROOT), "HOME": str(self.folder)}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return found | {"PATH": path, "SLURM_JOB_ID": str(number), "SLURMD_NODENAME": "127.0.0.1"}

    def script(self) -> str:
        """The script, with shorter waits than those of a real engine."""
        own = SCRIPT.replace("/shared/", f"{self.folder}/shared/")
        return own.replace("sleep 10 ", "sleep 1 ").replace("  sleep 2\n", "  sleep 0.1\n")

    def names(self) -> set[str]:
        found = yaml.safe_load(self.list.read_text()) if self.list.exists() else None
        return {entry["name"] for entry in found or ()}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    for name in ("shared", "bin"):
        (tmp_path / name).mkdir()
    key = tmp_path / ".engine-key"
    key.write_text("sk-engine\n")
    key.chmod(0o600)
    program = tmp_path / "bin" / "vllm"
    call = f'{shlex.quote(sys.executable)} -m sage_inference.simulator vllm --api-key "$VLLM_API_KEY"'
    program.write_text(
        f'#!/bin/sh\n[ "$1" = serve ] || exit 9\nmodel=$2; shift 2\nexec {call} --model "$model" "$@"\n'
    )
    program.chmod(0o755)
    return Cluster(tmp_path)


class Job:
    """The script as a batch shell, with the number and the node that Slurm would give."""

    def __init__(self, cluster: Cluster) -> None:
        port = free_port()
        while port >= 30000:  # the script's ports end there
            port = free_port()
        self.number = port - 20000
        self.name = f"job-{self.number}"
        self.process = subprocess.Popen(
            ["bash", "-c", cluster.script()],
            env=cluster.environ(self.number),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def engine(self) -> int:
        """The process that the script started as vLLM."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        [pid] = [each for each in found if b"simulator" in Path(f"/proc/{each}/cmdline").read_bytes()]
        return int(pid)


@contextmanager
def submitted(cluster: Cluster, count: int) -> Iterator[list[Job]]:
    jobs = [Job(cluster) for _ in range(count)]
    try:
        yield jobs
    finally:
        for job in jobs:
            try:
                os.killpg(job.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            job.process.wait(10)


@contextmanager
def gateway_of(cluster: Cluster) -> Iterator[Gateway]:
    config = yaml.safe_load(SOURCES.replace("/shared/", f"{cluster.folder}/shared/"))
    config["sources"][0]["interval_s"] = 0.2
    with running_gateway(config=config, env={"HOME": str(cluster.folder)}) as gateway:
        yield gateway


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def ready(gateway: Gateway) -> set[str]:
    return {one["name"] for one in gateway.instances() if one["state"] == "ready"}


class Stream:
    """A stream of some seconds in a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.instance = ""
        self.text = ""
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(gateway,), daemon=True)
        self._thread.start()
        assert self._begun.wait(PATIENCE_S)

    def end(self) -> str:
        self._thread.join(PATIENCE_S)
        return self.text

    def _read(self, gateway: Gateway) -> None:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "count"}], "max_tokens": 400}
        body = asked | {"stream": True, "ignore_eos": True}
        with (
            gateway.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            self.instance = answer.headers["x-sage-instance"]
            for piece in answer.iter_text():
                self._begun.set()
                self.text += piece


def chat(gateway: Gateway) -> httpx.Response:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    with gateway.client() as client:
        return client.post("/v1/chat/completions", json=asked)


def test_a_job_comes_serves_and_leaves_before_its_time_limit(cluster: Cluster) -> None:
    with submitted(cluster, 2) as jobs, gateway_of(cluster) as gateway:
        names = {job.name for job in jobs}
        until(lambda: ready(gateway) == names)
        assert cluster.names() == names
        streams = [Stream(gateway) for _ in range(4)]
        assert {stream.instance for stream in streams} == names
        leaver, stayer = jobs
        leaver.process.send_signal(signal.SIGTERM)  # as --signal=B:TERM does: the shell alone
        until(lambda: leaver.name not in ready(gateway))
        assert chat(gateway).headers["x-sage-instance"] == stayer.name
        assert all(stream.end().endswith("data: [DONE]\n\n") for stream in streams)
        assert leaver.process.wait(PATIENCE_S) == 0
        assert "draining: None" not in gateway.log()
        assert cluster.names() == {stayer.name}
        os.kill(stayer.engine(), signal.SIGKILL)
        assert stayer.process.wait(PATIENCE_S) != 0, "Slurm sees that the job failed"
        assert cluster.names() == set()


def test_jobs_that_write_at_the_same_time_lose_no_entry(cluster: Cluster) -> None:
    function = SCRIPT[SCRIPT.index("entry() {") : SCRIPT.index("leave() {")]
    head = f"list={shlex.quote(str(cluster.list))}; port=8000\n"
    # A job whose number begins with that of another, too.
    numbers = [*range(10, 22), 100, 101]

    def run(*words: str) -> None:
        calls = [
            subprocess.Popen(["bash", "-c", f"{head}{function}entry {word}"], env=cluster.environ(number))
            for word in words
            for number in numbers[: len(numbers) if word == "add" else -2]
        ]
        assert [call.wait(PATIENCE_S) for call in calls] == [0] * len(calls)

    run("add")
    run("add")
    entries = yaml.safe_load(cluster.list.read_text())
    assert sorted(entry["name"] for entry in entries) == sorted(f"job-{number}" for number in numbers)
    run("remove")
    assert cluster.names() == {"job-100", "job-101"}
    assert json.dumps(yaml.safe_load(cluster.list.read_text())).count("127.0.0.1:8000") == 2


def test_the_times_of_the_script_fit_into_each_other() -> None:
    [before] = [int(line.rpartition("@")[2]) for line in SCRIPT.splitlines() if "--signal=B:TERM@" in line]
    [waits] = [int(line.split()[1]) for line in SCRIPT.splitlines() if line.startswith("  sleep 10")]
    finishes = int(SCRIPT.partition("--shutdown-timeout ")[2].split()[0])
    [source] = yaml.safe_load(SOURCES)["sources"]
    assert waits + finishes < before
    assert source["drain_s"] >= finishes
