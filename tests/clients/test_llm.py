"""The command ``llm``. The documented line stands in its ``extra-openai-models.yaml``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.wishes import CITY

CLIENT = "llm"
Command = Callable[..., str]


@pytest.fixture
def llm(documented: Callable[[str], str], llm_folder: Path) -> Command:
    (llm_folder / "extra-openai-models.yaml").write_text(documented(CLIENT) + "\n")

    def run(*args: str) -> str:
        command = [sys.executable, "-m", "llm", "prompt", "-m", "gateway", "--no-log", *args, "hello"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_chat(llm: Command) -> None:
    assert "simulated" in llm("--no-stream")


def test_stream(llm: Command) -> None:
    assert llm() == llm("--no-stream")


def test_structured_output(llm: Command) -> None:
    assert set(json.loads(llm("--schema", json.dumps(CITY)))) == {"city"}
