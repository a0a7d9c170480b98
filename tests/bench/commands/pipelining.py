"""``pipelining``: ten connections send requests without end; another caller must hardly notice."""

from __future__ import annotations

import argparse

from tests.bench.pipelining.scene import Figures, flood, measured, scene

HELP = "another caller's latency and the gateway's memory beside ten connections that pipeline"
TIMES = 3.0  # of the p99 without
GROWTH_MB = 16.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part; default 60")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    print(
        "| | requests | p50 ms | p99 ms | most ms | MB at the begin | MB at most | |\n|---|---|---|---|---|---|---|---|"
    )
    held = True
    with scene() as gateway:
        alone = measured(gateway, arguments.seconds)
        _show("alone", alone, True)
        for kind in ("reading", "deaf"):
            with flood(gateway, kind):
                found = measured(gateway, arguments.seconds)
            holds = found.p99_ms <= TIMES * alone.p99_ms and found.most_mb <= found.begin_mb + GROWTH_MB
            _show(kind, found, holds)
            held = held and holds
    return 0 if held else 1


def _show(name: str, found: Figures, holds: bool) -> None:
    cells = f"{found.p50_ms:.2f} | {found.p99_ms:.2f} | {found.most_ms:.1f} | {found.begin_mb:.0f} | {found.most_mb:.0f}"
    print(f"| {name} | {found.requests} | {cells} | {'held' if holds else '**NOT HELD**'} |", flush=True)
