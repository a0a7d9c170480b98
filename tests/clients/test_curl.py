"""The command ``curl``."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable

CLIENT = "curl"


def _output(line: str) -> str:
    command = [*shlex.split(line), "--silent", "--show-error", "--fail", "--no-buffer"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_chat(documented: Callable[[str], str]) -> None:
    assert json.loads(_output(documented(CLIENT)))["choices"][0]["message"]["content"]


def test_stream(documented: Callable[[str], str]) -> None:
    events = _output(documented(CLIENT).replace('{"model"', '{"stream": true, "model"')).strip().split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
