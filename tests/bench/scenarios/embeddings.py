"""Embeddings answers of 400 KB over 8 connections."""

from __future__ import annotations

import json
import math
import time
import urllib.request

from tests.bench.bench import Bench
from tests.bench.errors import BenchError
from tests.bench.load import wrk
from tests.bench.mock import vectors
from tests.bench.process import KEY
from tests.bench.scenarios.base import Column, Figures, Scenario, used
from tests.bench.targets.base import MODELS, Target

_CONNECTIONS = 8
_PATH = "/v1/embeddings"


def measure(bench: Bench, target: Target, seconds: float) -> Figures:
    body = vectors.request(MODELS["stream"])
    _check(target.urls["stream"] + _PATH, body)
    cpu, began = target.cpu_s("stream"), time.monotonic()
    done = wrk.run(target.urls["stream"] + _PATH, body, _CONNECTIONS, seconds)
    took, cpu = time.monotonic() - began, target.cpu_s("stream") - cpu
    return {
        "mb_per_s": done["bytes_per_s"] / 1e6,
        "per_s": done["per_s"],
        "failures": done["failures"],
    } | used(target, "stream", cpu, done["requests"], took)


def _check(url: str, body: bytes) -> None:
    """One answer has every vector that was asked for: a fast wrong answer is none."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        got = json.load(answer)["data"]
    wanted = json.loads(vectors.answer(vectors.TEXTS, "float"))["data"]
    for number, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        pairs = zip(mine["embedding"], theirs["embedding"], strict=True)
        if not all(math.isclose(a, b, abs_tol=1e-7) for a, b in pairs):
            raise BenchError(f"{url}: vector {number} is not the engine's")


EMBEDDINGS = Scenario(
    "embeddings",
    f"embeddings answers of {len(vectors.answer(vectors.TEXTS, 'float')) // 1000} KB, {_CONNECTIONS} connections",
    "stream",
    (
        Column("mb_per_s", "MB/s"),
        Column("per_s", "answers/s"),
        Column("cpu_us", "CPU µs/answer"),
        Column("core_pct", "core %"),
        Column("failures", "failures"),
    ),
    measure,
)
