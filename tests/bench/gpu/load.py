"""Load from ``sage inference bench``, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.errors import BenchError
from tests.support.gateway import clean_environment

_LEAVE_S = 10.0


class Load:
    """It runs until ``result``. At its time limit it gets SIGINT, which keeps the figures so far."""

    def __init__(
        self, folder: Path, label: str, url: str, options: Mapping[str, object], limit_s: float
    ) -> None:
        self.label = label
        self._out = folder / f"{label}.json"
        self._errors = folder / f"{label}.err"
        self._end = time.monotonic() + limit_s
        command = [sys.executable, "-m", "sage_inference", "inference", "bench", "--json", "--no-ceiling"]
        command += ["--url", url, *_words(options)]
        folder.mkdir(parents=True, exist_ok=True)
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env=clean_environment(folder / "home"),
                cwd=folder,
            )

    def result(self) -> dict[str, Any]:
        """The document of the bench. Raises ``BenchError`` if it has none."""
        try:
            self._process.wait(max(0.1, self._end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGINT)
        except BaseException:  # the run was stopped: no load goes on without it
            self.kill()
            raise
        self.end()
        text = self._out.read_text()
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            document = {}
        if "total" not in document:
            words = (text[-300:] + self._errors.read_text()[-600:]).strip()
            raise BenchError(f"load {self.label} has no figures: {words or 'no message'}")
        return document

    def end(self) -> None:
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _words(options: Mapping[str, object]) -> list[str]:
    """``True`` is a flag; None is left out."""
    words = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words
