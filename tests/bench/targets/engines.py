"""The two mock engines, running on the load's core."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.bench.home import scratch_folder
from tests.bench.mock import plain
from tests.bench.process import LOAD_CORE, Process, wait_for
from tests.bench.targets.base import Kind, Target
from tests.support.gateway import free_port


class Engines:
    """Both engines, and what they say they saw."""

    def __init__(self, stack: ExitStack) -> None:
        ports = {"plain": free_port(), "stream": free_port()}
        folder = stack.enter_context(scratch_folder("engines"))
        commands = {
            "plain": plain.command(folder, ports["plain"]),
            "stream": [sys.executable, "-m", "tests.bench.mock.stream", str(ports["stream"])],
        }
        urls = {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
        started = {}
        for kind, command in commands.items():
            started[kind] = Process(command, LOAD_CORE, folder / f"{kind}.log")
            stack.callback(started[kind].stop)
            wait_for(started[kind], f"{urls[kind]}/health", seconds=10)
        self.urls: Mapping[Kind, str] = {"plain": urls["plain"], "stream": urls["stream"]}
        self.pids = tuple(process.pid for process in started.values())

    def direct(self) -> Target:
        return Target("direct", self.urls)

    def plain_requests(self) -> int:
        return plain.requests_seen(self.urls["plain"])

    def seen(self) -> dict[str, Any]:
        """What the stream engine saw (``tests.bench.mock.stream.Seen``)."""
        with urllib.request.urlopen(f"{self.urls['stream']}/seen", timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
        return document
