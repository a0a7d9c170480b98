"""Engines as processes that outlive a call: started, awaited, killed, and found again by the next call."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from tests.bench.gpu.specs import SPECS, Role, Spec
from tests.support.gateway import free_port

_METRIC = re.compile(r"^((?:vllm|te):?[a-z_:]+)(\{[^}]*\})? ([0-9.eE+-]+)$", re.M)
_SET_UP = re.compile(
    r"KV cache size|Maximum concurrency|max_num_batched|attention backend|Model Runner|API server version"
)
_CORE = "EngineCore"
_SETTLE_S = 5.0
_POLL_S = 0.1
# vLLM needs no network, and must not look for one.
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # A forced tool call is plain JSON then. In the tags of the strict form random weights write white space without end.
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "4",
}


@dataclass(slots=True)
class Live:
    """A process that was started, whether or not it still runs."""

    pid: int
    port: int
    variant: int
    started: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Engines:
    """``simulated``: the project's simulators instead, at that speed. ``say`` gets a line for a person."""

    def __init__(
        self, folder: Path, models: Path, say: Callable[[str], None], simulated: float | None = None
    ) -> None:
        self._file = folder / "engines.json"
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._models = models
        self._say = say
        self.simulated = simulated
        found = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.live: dict[str, Live] = {name: Live(**one) for name, one in found.items()}
        self._ours: dict[str, subprocess.Popen[bytes]] = {}  # those of this call, which have to be waited for
        self.gpus = _gpus() if simulated is None else 1

    def url(self, name: str) -> str:
        return self.live[name].url

    def launch(self, name: str, variant: int = 0) -> None:
        spec = SPECS[name]
        port = free_port()
        command = (
            vllm_command(spec, port, self._models, variant)
            if self.simulated is None
            else _simulator(spec, port, self.simulated)
        )
        environment = {**os.environ, **_ENVIRONMENT, **spec.variants[variant].environment}
        environment["CUDA_VISIBLE_DEVICES"] = str(spec.gpu if spec.gpu < self.gpus else 0)
        with (self.logs / f"engine-{name}.log").open("ab") as log:
            log.write(f"\n=== {time.time():.1f} variant {variant}: {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._ours[name] = process
        self.live[name] = Live(process.pid, port, variant, time.time())
        self._save()

    def alive(self, name: str) -> bool:
        if name in self._ours:
            return self._ours[name].poll() is None
        try:
            return psutil.Process(self.live[name].pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def healthy(self, name: str) -> bool:
        if name not in self.live:
            return False
        try:
            answer = httpx.get(f"{self.url(name)}/health", timeout=2, trust_env=False, verify=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def wait(self, names: Iterable[str], seconds: float) -> dict[str, float | None]:
        """Seconds that each took to its first healthy answer. One that ends is started again as its next variant."""
        end = time.monotonic() + seconds
        took: dict[str, float | None] = dict.fromkeys(names)
        left = [name for name in took if name in self.live]
        while left and time.monotonic() < end:
            for name in list(left):
                live = self.live[name]
                if self.healthy(name):
                    took[name] = round(time.time() - live.started, 1)
                    left.remove(name)
                    self._say(f"{name} healthy after {took[name]} s, variant {live.variant}")
                elif not self.alive(name) and not self._again(name):
                    left.remove(name)
            time.sleep(0.1 if self.simulated else 0.5)
        for name in left:
            self._say(f"{name} NOT HEALTHY within {seconds:g} s: {self._end_of_log(name)}")
        return took

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """The whole tree of processes."""
        for process in _tree(self.live[name].pid):
            _send(process, number)

    def kill_core(self, name: str) -> str:
        """Kill only the process that computes, and return its name. A simulator has no other one."""
        processes = _tree(self.live[name].pid)
        cores = [one for one in processes if _CORE in _words(one)] or processes
        for process in cores:
            _send(process, signal.SIGKILL)
        return "core" if cores is not processes else "all"

    def wait_gone(self, name: str, seconds: float) -> float:
        """Seconds until the process has ended. It is killed if that takes longer."""
        began = time.monotonic()
        while self.alive(name):
            if time.monotonic() - began > seconds:
                self.kill(name)
            time.sleep(0.05)
        return time.monotonic() - began

    def terminate(self, name: str) -> None:
        """SIGTERM to the server alone, as a service manager sends it."""
        os.kill(self.live[name].pid, signal.SIGTERM)

    def stop(self) -> None:
        for name in self.live:
            self.kill(name)

    def set_up_lines(self, name: str) -> list[str]:
        """The lines of its log about its set-up: version, kernels, memory."""
        text = (self.logs / f"engine-{name}.log").read_text(errors="replace")
        return [line[-200:] for line in text.splitlines() if _SET_UP.search(line)][-8:]

    def metrics(self, name: str) -> dict[str, float]:
        """Sums over labels, without the buckets."""
        try:
            text = httpx.get(f"{self.url(name)}/metrics", timeout=5, trust_env=False, verify=False).text
        except httpx.HTTPError:
            return {}
        sums: dict[str, float] = {}
        for metric, _, value in _METRIC.findall(text):
            if not metric.endswith(("_bucket", "_created")):
                sums[metric] = sums.get(metric, 0.0) + float(value)
        return sums

    def settle(self, names: Iterable[str]) -> None:
        """Wait until nothing runs, and empty the prefix caches: vLLM keeps a cache of which a request uses a part."""
        end = time.monotonic() + _SETTLE_S
        for name in names:
            while self.metrics(name).get("vllm:num_requests_running") and time.monotonic() < end:
                time.sleep(_POLL_S)
            try:
                httpx.post(f"{self.url(name)}/reset_prefix_cache", timeout=10, trust_env=False, verify=False)
            except httpx.HTTPError as error:
                self._say(f"{name}: the prefix cache was not emptied: {error!r}")

    def _again(self, name: str) -> bool:
        live = self.live[name]
        log = self.logs / f"engine-{name}.log"
        errors = [line[-300:] for line in log.read_text(errors="replace").splitlines() if "Error" in line]
        self._say(f"{name} ENDED, variant {live.variant}: " + "\n   ".join(errors[-5:]))
        shutil.copy(log, self.logs / f"engine-{name}-ended-{live.variant}.log")
        if live.variant + 1 >= len(SPECS[name].variants) or self.simulated is not None:
            return False
        self.launch(name, live.variant + 1)
        return True

    def _end_of_log(self, name: str) -> str:
        return (self.logs / f"engine-{name}.log").read_text(errors="replace")[-1200:]

    def _save(self) -> None:
        self._file.write_text(json.dumps({name: asdict(one) for name, one in self.live.items()}))


def vllm_arguments(spec: Spec, port: int, models: Path, variant: int) -> list[str]:
    weights = ["--load-format", "dummy"] if spec.random_weights else []
    where = ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning"]
    model = ["--model", str(models / spec.folder), "--served-model-name", spec.model]
    return [*weights, *where, *model, *spec.arguments, *spec.variants[variant].arguments]


def vllm_command(spec: Spec, port: int, models: Path, variant: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *vllm_arguments(spec, port, models, variant),
    ]


def _simulator(spec: Spec, port: int, speed: float) -> list[str]:
    command = [sys.executable, "-m", "sage_inference.simulator", "vllm", "--port", str(port), "--dev-mode"]
    given = dict(zip(spec.arguments, spec.arguments[1:], strict=False))
    command += ["--model", spec.model, "--speed", str(speed), "--max-model-len", given["--max-model-len"]]
    if spec.role is not Role.CHAT:
        command += ["--runner", "pooling", "--dimension", "64"]
    if transfer := given.get("--kv-transfer-config"):
        command += ["--kv-transfer-config", transfer]
    return [*command, "--shutdown-timeout", given.get("--shutdown-timeout", "0")]


def _tree(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> str:
    try:
        return f"{process.name()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return ""


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _gpus() -> int:
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return 1
    return max(1, len(shown.stdout.strip().splitlines()))
