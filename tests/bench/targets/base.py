"""A target: something that answers for both engines, and the processes that it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.bench.home import scratch_folder
from tests.bench.machine import cpu_seconds, resident_kib
from tests.bench.mock import plain, stream
from tests.bench.mock.orders import Orders
from tests.bench.process import GATEWAY_CORE, Process, wait_for
from tests.support.gateway import free_port

Kind = Literal["plain", "stream"]
KINDS: tuple[Kind, ...] = ("plain", "stream")
MODELS: Mapping[Kind, str] = {"plain": plain.MODEL, "stream": stream.MODEL}


def first_request(kind: Kind) -> bytes:
    """The shortest request that the engine of this kind answers."""
    return plain.request() if kind == "plain" else Orders(chunks=1, gap_us=1000).body(stream.MODEL)


@dataclass
class Target:
    """``pids`` has the process in front of each engine; direct access has none."""

    name: str
    urls: Mapping[Kind, str]
    pids: Mapping[Kind, int] = field(default_factory=dict)

    def processes(self, kind: Kind) -> Iterable[int]:
        return (self.pids[kind],) if kind in self.pids else ()

    def cpu_s(self, kind: Kind) -> float:
        return cpu_seconds(self.processes(kind))

    def resident_kib(self, kind: Kind) -> float:
        return resident_kib(self.processes(kind))


@dataclass(frozen=True)
class Command:
    """How to start one process: what to run, where, and in which environment (None: ours)."""

    argv: list[str]
    cwd: Path | None = None
    env: Mapping[str, str] | None = None


# (folder for its files, its port, the engines by kind) -> the command
Recipe = Callable[[Path, int, Mapping[Kind, str]], Command]


@dataclass(frozen=True)
class Launcher:
    """Starts a target: a process in front of each engine, or one for both if it has a ``tree``.

    ``tree``: the source tree of this gateway, for a gateway of ours. ``only``: the scenarios that it can take
    part in, empty for all; ``kinds``: the engines that these need.
    """

    name: str
    recipe: Recipe
    tree: Path | None = None
    only: frozenset[str] = frozenset()
    kinds: tuple[Kind, ...] = KINDS

    @property
    def ours(self) -> bool:
        return self.tree is not None

    def start(self, stack: ExitStack, engines: Mapping[Kind, str], kinds: Iterable[Kind] = ()) -> Target:
        """Ready when it has answered a request for each kind (none given: all of its own); ``stack`` stops it."""
        urls: dict[Kind, str] = {}
        pids: dict[Kind, int] = {}
        wanted = tuple(kinds) or self.kinds
        for served in (wanted,) if self.ours else tuple((kind,) for kind in wanted):
            url, process = self._one(stack, {kind: engines[kind] for kind in served})
            for kind in served:
                wait_for(process, f"{url}/v1/chat/completions", first_request(kind))
                urls[kind], pids[kind] = url, process.pid
        return Target(self.name, urls, pids)

    def _one(self, stack: ExitStack, engines: Mapping[Kind, str]) -> tuple[str, Process]:
        port = free_port()
        folder = stack.enter_context(scratch_folder(self.name))
        command = self.recipe(folder, port, engines)
        process = Process(
            command.argv,
            GATEWAY_CORE,
            folder / "output.log",
            env=command.env,
            **({"cwd": command.cwd} if command.cwd else {}),
        )
        stack.callback(process.stop)
        return f"http://127.0.0.1:{port}", process
