"""Keepers with real engines' processes, and the proof that none of them is left."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_inference.keeper.client import KeeperError, KeeperLink, launch
from sage_inference.keeper.spec import KeeperSpec

PYTHON = (sys.executable, "-I", "-S", "-c")


def wait_until(true: Callable[[], Any], limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Engines:
    """Launches engines below ``root``. Their processes carry a mark in their environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = f"e{uuid.uuid4().hex[:10]}"
        self.directory = root / "engines" / self.name
        self._links: list[KeeperLink] = []

    def spec(self, *argv: str, **changes: Any) -> KeeperSpec:
        values: dict[str, Any] = {
            "name": self.name,
            "directory": str(self.directory),
            "argv": list(argv),
            "env": {"PATH": "/usr/bin:/bin", "MARK": self.name, "OUT": str(self.root)},
            "grace_s": 5.0,
        }
        values["env"] |= changes.pop("env", {})
        return KeeperSpec(**values | changes)

    def launch(self, *argv: str, **changes: Any) -> KeeperLink:
        link = launch(self.spec(*argv, **changes), "plain")
        self._links.append(link)
        return link

    def shell(self, script: str, **changes: Any) -> KeeperLink:
        return self.launch("/bin/sh", "-c", script, **changes)

    def python(self, program: str, **changes: Any) -> KeeperLink:
        """An engine that has written the file ``ready`` when this returns."""
        link = self.launch(*PYTHON, program, **changes)
        wait_until((self.root / "ready").exists)
        return link

    def processes(self) -> list[int]:
        """The living processes that carry the mark: keepers, guards and engines."""
        found = []
        mark = self.name.encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                marked = b"MARK=" + mark in (folder / "environ").read_bytes().split(b"\0")
                if words[-2:-1] == [mark] or marked:
                    found.append(int(folder.name))
        return found

    def end(self) -> None:
        for link in self._links:
            with contextlib.suppress(KeeperError):
                link.kill()
            link.close()
        wait_until(lambda: not self.processes())


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    before = descriptors()
    made = Engines(tmp_path)
    yield made
    made.end()
    assert descriptors() <= before, "descriptors are left open"
