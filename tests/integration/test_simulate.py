"""``start --simulate``: what a newcomer sees first, with neither GPU nor network."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.command import sage
from tests.support.gateway import free_port


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    sage(tmp_path, "stop", "--force")


def start(home: Path) -> str:
    started = sage(home, "start", "--simulate", "--background", "--port", str(free_port()))
    assert started.returncode == 0, started.stderr
    return started.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """What ``start`` printed, and the home of a gateway that these tests only look at."""
    home = tmp_path_factory.mktemp("simulate")
    yield start(home), home
    sage(home, "stop", "--force")


@pytest.fixture(scope="module")
def client(running: tuple[str, Path]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(document(running[1])["address"]), trust_env=False, verify=False) as found:
        yield found


def document(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(sage(home, "status", "--json").stdout)
    return found


def ended(pids: list[int], seconds: float = 10) -> bool:
    """Wait for processes that are not ours to end."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], seconds)[0]:
                return False
        finally:
            os.close(handle)
    return True


def engines_of(home: Path) -> list[int]:
    return [child.pid for child in psutil.Process(int(str(document(home)["pid"]))).children()]


def test_the_curl_line_that_start_prints_answers_a_chat(running: tuple[str, Path]) -> None:
    [line] = [text for text in running[0].splitlines() if text.startswith("try: ")]
    shown = subprocess.run(
        [*shlex.split(line.removeprefix("try: ")), "-s", "--noproxy", "*"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "simulated" in json.loads(shown.stdout)["choices"][0]["message"]["content"]


def test_simulated_engines_are_called_so_everywhere(running: tuple[str, Path]) -> None:
    said, home = running
    assert "engines are simulated: simulated-vllm (llm), simulated-tei (embedding)" in said
    found = document(home)
    assert found["simulated"] is True
    assert "(simulated)" in sage(home, "status").stdout
    models = httpx.get(f"{found['address']}/v1/models", trust_env=False, verify=False).json()["data"]
    assert {model["owned_by"] for model in models} == {"sage-simulator"}
    assert {model["id"] for model in models} == {"simulated-llm", "simulated-embedding"}


def test_simulated_engines_stop_with_the_gateway(home: Path) -> None:
    start(home)
    engines = engines_of(home)
    assert len(engines) == 2
    assert sage(home, "stop").returncode == 0
    assert ended(engines)


def test_simulated_engines_die_with_a_killed_gateway(home: Path) -> None:
    start(home)
    engines = engines_of(home)
    os.kill(int(str(document(home)["pid"])), signal.SIGKILL)
    assert ended(engines)


def test_both_kinds_of_vectors_agree(client: httpx.Client) -> None:
    openai = client.post("/v1/embeddings", json={"model": "simulated-embedding", "input": ["a b", "c"]})
    native = client.post("/embed", json={"inputs": ["a b", "c"]})
    assert [entry["embedding"] for entry in openai.json()["data"]] == native.json()


def test_teis_errors_reach_an_openai_client_in_its_shape_and_native_ones_unchanged(
    client: httpx.Client,
) -> None:
    asked = {"model": "simulated-embedding", "input": "x", "dimensions": 100_000}
    wrapped = client.post("/v1/embeddings", json=asked)
    assert (wrapped.status_code, wrapped.json()["error"]["code"]) == (422, "Validation")
    native = client.post("/embed", json={"inputs": ""})
    assert native.json() == {
        "error": "Input validation error: `inputs` cannot be empty",
        "error_type": "Empty",
    }


def test_a_route_no_engine_has_is_501(client: httpx.Client) -> None:
    answer = client.post("/classify", json={"input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "no_engine_for_route")
