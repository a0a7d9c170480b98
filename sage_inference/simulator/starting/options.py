"""The options of ours that every such engine takes beside its own: how long it loads, and how it fails."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sage_inference.simulator.faults import Fault


@dataclass(frozen=True, slots=True)
class StartOptions:
    """``failure``: the name of the failure that this start prints, or None. ``after_s`` counts from readiness."""

    load_s: float
    failure: str | None
    exit_status: int | None
    after_s: float
    speed: float
    faults: tuple[Fault, ...]

    def spend(self, share: float) -> None:
        """Wait for this share of the time that the start takes."""
        if self.load_s > 0:
            time.sleep(self.load_s * share)


class EngineParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose error is the engine's own: ``status`` and text."""

    def __init__(self, prog: str, status: int = 2) -> None:
        super().__init__(prog=prog, allow_abbrev=False, description=f"A simulated {prog}.")
        self._status = status

    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(self._status, f"{self.prog}: error: {message}\n")


def add_start_options(parser: argparse.ArgumentParser, failures: Collection[str]) -> None:
    ours = parser.add_argument_group("options of the simulator")
    ours.add_argument("--load-seconds", type=float, default=0.0, help="seconds from the start to readiness")
    ours.add_argument("--fail-with", choices=sorted(failures), help="print this failure, and end as it does")
    ours.add_argument(
        "--fail-starts",
        type=Path,
        metavar="FILE",
        help="FILE holds the number of starts that still fail; each of them reduces it, and without it all fail",
    )
    ours.add_argument("--exit-status", type=int, help="end with this status, or by signal N with -N")
    ours.add_argument("--after", type=float, default=0.0, help="seconds from readiness to that end")
    ours.add_argument("--speed", type=_speed, default=1.0, help="as of the other simulators")
    ours.add_argument("--fault", action="append", default=[], help='such as {"status": 503, "count": 2}')


def start_options(given: argparse.Namespace) -> StartOptions:
    return StartOptions(
        load_s=given.load_seconds,
        failure=given.fail_with if _fails(given.fail_starts) else None,
        exit_status=given.exit_status,
        after_s=given.after,
        speed=given.speed,
        faults=tuple(_faults(given.fault)),
    )


def _fails(file: Path | None) -> bool:
    """Whether this start fails, and count it."""
    if file is None:
        return True
    try:
        left = int(file.read_text())
    except (OSError, ValueError):
        return False
    file.write_text(str(max(0, left - 1)))
    return left > 0


def _faults(texts: Sequence[str]) -> list[Fault]:
    if not texts:
        return []
    from sage_inference.simulator.faults import parse

    return [fault for text in texts for fault in parse(json.loads(text))]


def _speed(text: str) -> float:
    return 0.0 if text == "instant" else float(text)
