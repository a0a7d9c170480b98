"""The same order of policies on real sockets: one gateway, four simulated engines as processes, one trace in turn.

A scaled-down crowd of 24 tenants with prefixes of 3,072 tokens; an engine's cache holds 8 of them. Each policy
gets the same trace with texts of its own, so nobody finds what another left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sage_inference.replay.jobs import Job
from tests.bench.traces.workloads import prefix_tenants
from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import simulated_engine

ENGINES = 4
TENANTS = 24
KV_TOKENS = 27_000
PER_S = 14.0
SPEED = "0.5"


@dataclass(frozen=True, slots=True)
class Live:
    policy: str
    ttft_p50_ms: float
    ttft_p99_ms: float
    failed: int


def live(policies: Sequence[str], seconds: float) -> Iterator[Live]:
    """One after another, all before the same engines."""
    jobs = prefix_tenants(seconds, PER_S, TENANTS, prefix_blocks=6)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        trace = folder / "trace.csv"
        trace.write_text("t_ms,in_tokens,out_tokens,blocks\n" + "".join(map(_line, jobs)))
        options = ("--kv-cache-tokens", str(KV_TOKENS), "--speed", SPEED)
        urls = [stack.enter_context(simulated_engine("vllm", *options)).url for _ in range(ENGINES)]
        instances = [{"url": url, "kv_cache_tokens": KV_TOKENS} for url in urls]
        gateway = stack.enter_context(running_gateway(config={"instances": instances}))
        for number, policy in enumerate(policies):
            yield _measure(gateway, policy, trace, number)


def _line(job: Job) -> str:
    runs = f"{job.blocks[0]}-{job.blocks[-1]}"
    return f"{job.at_ms:.0f},{job.prompt},{min(job.output, 16)},{runs}\n"


def _measure(gateway: Gateway, policy: str, trace: Path, seed: int) -> Live:
    with gateway.client(headers=gateway.admin) as client:
        client.put("/admin/policy", json={"policy": policy}).raise_for_status()
    command = [
        "bench",
        "--url",
        gateway.url,
        "--trace",
        str(trace),
        "--seed",
        str(seed),
        "--no-ceiling",
        "--json",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "sage_inference", "inference", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    total: dict[str, Any] = json.loads(shown.stdout)["total"]
    return Live(
        policy, total["ttft_ms"]["p50"], total["ttft_ms"]["p99"], total["failed"] + total["abandoned"]
    )
