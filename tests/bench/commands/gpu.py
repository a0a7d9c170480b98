"""``python -m tests.bench gpu``: real engines on a GPU behind the gateway, in parts that go on where the last call ended."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.errors import BenchError
from tests.bench.gpu import arguments as engine_arguments
from tests.bench.gpu import options, packing
from tests.bench.gpu.parts import PARTS
from tests.bench.gpu.parts.base import Part
from tests.bench.gpu.run import EngineMissing, OutOfTime, Run, read_rows
from tests.bench.gpu.table import tables

HELP = "real engines on a GPU: prepare, check every argument without a GPU, run the parts, show the tables"
MISSING, OVER = 3, 4  # exit statuses: an engine is missing; not everything was measured in time


if TYPE_CHECKING:
    Actions = argparse._SubParsersAction[argparse.ArgumentParser]


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for configure_action in (_configure_run, _configure_table, _configure_check, _configure_prepare):
        configure_action(actions)


def run(arguments: argparse.Namespace) -> int:
    found: int = arguments.act(arguments)
    return found


def _configure_run(actions: Actions) -> None:
    about = "\n".join(f"  {name:12}{part.help}" for name, part in PARTS.items())
    parser = actions.add_parser(
        "run",
        help="measure parts; a second call goes on where the first one ended",
        description=f"PART is NAME[:option=value,...], in the order in which they run:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--results", type=Path, required=True, help="folder of this run")
    parser.add_argument("--models", type=Path, default=Path("models"), help="made by `models`")
    parser.add_argument("--traces", type=Path, default=Path("traces"), help="made by `traces`")
    parser.add_argument(
        "--within", type=float, default=3600.0, metavar="S", help="start no step that would end later"
    )
    parser.add_argument("--sim", type=float, metavar="SPEED", help="simulated engines at that speed")
    parser.add_argument(
        "--stop", action="store_true", help="end the engines afterwards; otherwise they go on"
    )
    parser.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen = [_chosen(word) for word in arguments.parts]
    results, models, traces = (getattr(arguments, name).resolve() for name in ("results", "models", "traces"))
    under_way = Run(results, models, traces, arguments.within, arguments.sim)
    status = 0
    try:
        for part, given in chosen:
            try:
                under_way.begin_part(part.name, part.needs, part.cap_s)
                part.play(under_way, given)
            except OutOfTime as over:
                under_way.say(f"no time for {over}")
                status = OVER
            except EngineMissing as missing:
                if part.stops:
                    raise
                under_way.say(f"{part.name} is left out: not healthy: {missing}")
                status = OVER
    except EngineMissing as missing:
        under_way.say(f"STOP: not healthy: {missing}; read {under_way.engines.logs}")
        status = MISSING
    finally:
        if arguments.stop:
            under_way.engines.stop()
    print(tables(list(under_way.rows.values())), flush=True)
    return status or min(1, under_way.failed)


def _chosen(word: str) -> tuple[Part, options.Options]:
    name, _, rest = word.partition(":")
    if name not in PARTS:
        raise BenchError(f'there is no part "{name}"; there are {", ".join(PARTS)}')
    return PARTS[name], options.parse(rest, PARTS[name].defaults)


def _configure_table(actions: Actions) -> None:
    parser = actions.add_parser("table", help="the tables of a run, from its folder")
    parser.add_argument("results", type=Path)
    parser.set_defaults(act=_table)


def _table(arguments: argparse.Namespace) -> int:
    print(tables(read_rows(arguments.results)))
    return 0


def _configure_check(actions: Actions) -> None:
    parser = actions.add_parser(
        "check", help="each engine's arguments through vLLM's own parser, without a GPU"
    )
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("engines", nargs="*", help="default: all whose model is there")
    parser.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    wrong = engine_arguments.check(arguments.engines, arguments.models.resolve(), print)
    print(f"{wrong} refused, in {time.monotonic() - began:.0f} s")
    return min(1, wrong)


def _configure_prepare(actions: Actions) -> None:
    models = actions.add_parser("models", help="models with random weights: configs and a tokenizer")
    models.add_argument("--out", type=Path, required=True)
    models.add_argument(
        "--text", type=Path, required=True, help="a folder of Python files to learn words from"
    )
    models.set_defaults(act=_models)
    traces = actions.add_parser("traces", help="the traffic of the parts, as CSV")
    traces.add_argument("--out", type=Path, required=True)
    traces.set_defaults(act=_traces)
    pack = actions.add_parser("pack", help="wheels for a machine without a network, stripped, in pieces")
    pack.add_argument("--requirements", type=Path, default=packing.REQUIREMENTS)
    pack.add_argument("--wheels", type=Path, help="a folder of wheels that are there already")
    pack.add_argument("--out", type=Path, required=True, help="folder of the pieces; it is emptied first")
    pack.add_argument("--piece-mib", type=float, default=56.0)
    pack.set_defaults(act=_pack)
    archive = actions.add_parser(
        "archive", help="the project, models and traces as one archive to unpack there"
    )
    archive.add_argument("--out", type=Path, required=True)
    archive.add_argument("--models", type=Path, required=True)
    archive.add_argument("--traces", type=Path, required=True)
    archive.add_argument("--real-model", type=Path, help="a folder with a small real model, for `structured`")
    archive.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what else goes along, by its name there",
    )
    archive.set_defaults(act=_archive)


def _models(arguments: argparse.Namespace) -> int:
    from tests.bench.gpu.models import write_models

    print(write_models(arguments.out, arguments.text))
    return 0


def _traces(arguments: argparse.Namespace) -> int:
    from tests.bench.gpu.traces import write_traces

    write_traces(arguments.out)
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    for piece in packing.pack(arguments.requirements, arguments.wheels, arguments.out, arguments.piece_mib):
        print(f"{piece}: {piece.stat().st_size / 2**20:.1f} MiB")
    return 0


def _archive(arguments: argparse.Namespace) -> int:
    more = dict(word.partition("=")[::2] for word in arguments.add)
    size = packing.archive(
        arguments.out,
        arguments.models,
        arguments.traces,
        real_model=arguments.real_model,
        more={name: Path(path) for name, path in more.items()},
    )
    print(f"{arguments.out}: {size / 2**20:.2f} MiB")
    return 0
