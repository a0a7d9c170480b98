"""The time until ``sage inference chat`` has answered and ended, beside curl's for the same request."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.gateway import Gateway, clean_environment, running_gateway
from tests.support.simulators import simulated_engine

HELP = "sage inference chat against curl: the time of one short answer."
PROMPT, MODEL = "Say hello.", "chat-model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10, help="runs of each, in turns (default: 10)")
    parser.add_argument(
        "--ahead", action="store_true", help="ahead of the machine's other work (needs root and Linux)"
    )


def run(arguments: argparse.Namespace) -> int:
    with simulated_engine("vllm", "--model", MODEL) as engine, running_gateway(engine.url) as gateway:
        if arguments.ahead:
            _go_ahead(gateway.process.pid)
        calls = {"curl": _curl(gateway), "chat": _chat()}
        environ = clean_environment(gateway.home)
        took: dict[str, list[float]] = {name: [] for name in calls}
        cpu: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(arguments.runs + 1):
            for name, call in calls.items():
                with _measured(took[name], cpu[name]):
                    ended = subprocess.run(
                        call, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=True
                    )
                assert ended.stdout, name
            if not number:  # the first one reads the files from the disk
                for name in calls:
                    took[name].clear()
                    cpu[name].clear()
    middle = {name: statistics.median(times) for name, times in took.items()}
    for name in calls:
        print(
            f"{name}: median {middle[name]:.0f} ms, {min(took[name]):.0f} to {max(took[name]):.0f} ms; "
            f"CPU {statistics.median(cpu[name]):.0f} ms"
        )
    print(f"chat takes {middle['chat'] - middle['curl']:.0f} ms more than curl")
    return 0


def _go_ahead(gateway: int) -> None:
    """Only a group of its own has a priority against the processes of other sessions."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    os.setpriority(os.PRIO_PROCESS, gateway, -20)
    for pid in (gateway, os.getpid()):
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            group.write_text("-20")


@contextmanager
def _measured(took: list[float], cpu: list[float]) -> Iterator[None]:
    began, before = time.perf_counter(), _cpu_s()
    yield
    took.append((time.perf_counter() - began) * 1000)
    cpu.append((_cpu_s() - before) * 1000)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _curl(gateway: Gateway) -> list[str]:
    messages = [{"role": "user", "content": PROMPT}]
    body = json.dumps({"model": MODEL, "messages": messages, "stream": True, "max_tokens": 1})
    head = "content-type: application/json"
    return ["curl", "-sSN", f"{gateway.url}/v1/chat/completions", "-H", head, "-d", body]


def _chat() -> list[str]:
    return [sys.executable, "-m", "sage_inference", "inference", "chat", "--set", "max_tokens=1", PROMPT]
