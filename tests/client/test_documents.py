"""The examples in README and in the documents run as they are written, but with other ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, free_port, running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

ROOT = Path(__file__).parents[2]
# The examples in cluster.md need two gateways: tests/recipes/test_standby.py runs them.
DOCUMENTS = [page for page in (ROOT / "sage_inference" / "docs").glob("*.md") if page.stem != "cluster"]
PAGES = (ROOT / "README.md", *sorted(DOCUMENTS))
EXAMPLES = {
    f"{page.stem}-{number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.S | re.M))
}


@pytest.fixture(scope="module")
def second() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as engine:
        yield engine


@pytest.fixture(scope="module")
def daemon(vllm: SimulatedEngine, tei: SimulatedEngine) -> Iterator[Gateway]:
    with running_gateway(vllm.url, tei.url) as gateway:
        yield gateway


def run(code: str, ports: Mapping[int, int], home: Path) -> str:
    for written, real in ports.items():
        code = re.sub(rf"\b{written}\b", str(real), code)
    environ = os.environ | {"SAGE_INFERENCE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pages_have_their_examples() -> None:
    assert {*EXAMPLES} == {"README-0", "api-0", *(f"python-{number}" for number in range(5))}


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_the_example_runs(
    code: str, vllm: SimulatedEngine, tei: SimulatedEngine, second: SimulatedEngine, daemon: Gateway
) -> None:
    ports = {8000: daemon.port, 8001: vllm.port, 8002: second.port, 8090: tei.port, 8800: free_port()}
    assert run(code, ports, daemon.home).strip()
