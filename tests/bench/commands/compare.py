"""``compare``: this gateway, direct access and the peers, measured in turns."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import psutil

from tests.bench import report
from tests.bench.bench import DIRECT, Bench
from tests.bench.errors import BenchError
from tests.bench.home import bench_home, need_program
from tests.bench.machine import CoreWatch
from tests.bench.process import GATEWAY_CORE, LOAD_CORE
from tests.bench.promises import PROMISES
from tests.bench.results import Results
from tests.bench.scenarios import SCENARIOS
from tests.bench.scenarios.base import Figures, Scenario
from tests.bench.targets.base import Launcher
from tests.bench.targets.ours import ours
from tests.bench.targets.peers import PEERS, available

HELP = "compare this gateway with direct access and with peers; prints Markdown"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="comma list, or 'none' (default: %(default)s)"
    )
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="repeatable (default: all)"
    )
    parser.add_argument("--rounds", type=_count, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=_count, default=5, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures here")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=TREE",
        help="measure another source tree of this gateway too",
    )


def _count(text: str) -> int:
    """wrk takes whole seconds only."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number of at least 1')
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    _prepare()
    launchers = [ours(), *_others(arguments.also), *_peers(arguments.peers)]
    scenarios = [SCENARIOS[name] for name in arguments.scenario or SCENARIOS]
    results = Results()
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    with ExitStack() as stack:
        bench = Bench(stack, launchers)
        for scenario in scenarios:
            bench.stop_others(_taking_part(bench, scenario))
            for round_ in range(1 if scenario.once else arguments.rounds):
                _round(bench, scenario, round_, arguments.seconds, results)
            if arguments.json:
                about = {"began": began, "machine": _machine(), "seconds": arguments.seconds}
                arguments.json.write_text(json.dumps(about | report.document(results, PROMISES)))
    print(f"{began}, {_machine()}; {arguments.rounds} rounds of {arguments.seconds} s, medians\n")
    print(report.tables(results, scenarios))
    print()
    print(report.promises(results, PROMISES))
    return 0


def _prepare() -> None:
    if (os.cpu_count() or 1) < 2:
        raise BenchError(
            "this machine has one core; two are needed: one for the gateway, one for engines and load"
        )
    for program in ("nginx", "wrk", "taskset"):
        need_program(program)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CORE})


def _others(also: Sequence[str]) -> list[Launcher]:
    launchers = []
    for word in also:
        name, equals, tree = word.partition("=")
        if not equals or not (Path(tree) / "sage_inference").is_dir():
            raise BenchError(f'--also "{word}": give NAME=TREE, where TREE holds sage_inference')
        launchers.append(ours(name, Path(tree).resolve()))
    return launchers


def _peers(names: str) -> list[Launcher]:
    launchers = []
    for name in names.split(",") if names != "none" else ():
        if name not in PEERS:
            raise BenchError(f'unknown peer "{name}"; known: {", ".join(PEERS)}')
        if available(name):
            launchers.append(PEERS[name])
        else:
            print(
                f"{name} is left out: not installed in {bench_home()}; python -m tests.bench install",
                file=sys.stderr,
            )
    return launchers


def _round(bench: Bench, scenario: Scenario, round_: int, seconds: float, results: Results) -> None:
    """Each round begins with another target, so that none always comes after the same one."""
    names = _taking_part(bench, scenario)
    first = round_ % len(names)
    for name in names[first:] + names[:first]:
        try:
            figures = _measure(bench, scenario, name, seconds)
        except (BenchError, psutil.Error, OSError) as error:
            print(f"{scenario.name} of {name} failed: {error}", file=sys.stderr)
            continue
        if figures is None:
            continue
        results.add(scenario.name, name, figures)
        told = {key: round(value, 2) for key, value in figures.items() if value is not None}
        print(scenario.name, round_ + 1, name, json.dumps(told), file=sys.stderr, flush=True)


def _measure(bench: Bench, scenario: Scenario, name: str, seconds: float) -> Figures | None:
    """None of a target that could not be started; that was told when it was tried."""
    with (
        bench.fresh(name, (scenario.engine,)) if scenario.fresh else nullcontext(bench.target(name)) as target
    ):
        if target is None:
            return None
        watch = CoreWatch(target.processes(scenario.engine), bench.engines.pids)
        return scenario.measure(bench, target, seconds) | watch.others()


def _taking_part(bench: Bench, scenario: Scenario) -> list[str]:
    able = [
        launcher
        for launcher in bench.launchers.values()
        if not launcher.only or scenario.name in launcher.only
    ]
    names = [launcher.name for launcher in able if launcher.ours or scenario.who != "ours"]
    return [DIRECT, *names] if scenario.who == "all" else names


def _machine() -> str:
    cores = os.cpu_count()
    return (
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}; gateway on core {GATEWAY_CORE}, "
        f"engines and load on core {LOAD_CORE}"
    )
