"""``python -m tests.bench viewers``: what ten pages and ``top`` cost the gateway and its callers."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tests.bench.figures import median, ratio
from tests.bench.scenarios.base import Figures
from tests.bench.viewers.flat import memory
from tests.bench.viewers.scene import Scene, scene

HELP = "ten pages and top against none: CPU when idle, requests/s, p99, and memory with --minutes"
VIEWERS = 11  # ten pages, and ``top``, which reads the same stream
IDLE_PCT, RATE, P99, GROWTH = 0.5, 0.99, 1.03, 1.05
_PARTS: dict[str, Callable[[Scene, float], Figures]] = {
    "idle": Scene.idle,
    "streams": Scene.streams,
    "paced": Scene.paced,
}
_COLUMNS = (
    *(("core_pct", "core %", 2), ("cpu_us", "CPU µs/request", 1), ("requests_per_s", "requests/s", 1)),
    *(
        ("first_p99_us", "first chunk p99 µs", 0),
        ("took_p99_us", "whole p99 µs", 0),
        ("failures", "failures", 0),
    ),
    ("others_gateway_core_pct", "others on core 0 %", 0),
    ("others_load_core_pct", "on core 1 %", 0),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement; default 20")
    parser.add_argument("--rounds", type=int, default=3, help="of none and all in turn; default 3")
    parser.add_argument("--viewers", type=int, default=VIEWERS, help="default %(default)s: ten pages and top")
    parser.add_argument(
        "--part", choices=list(_PARTS), action="append", help="only this part; repeat for more"
    )
    parser.add_argument("--minutes", type=float, help="only the memory, over so many minutes of streams")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    with scene() as made:
        if arguments.minutes is not None:
            return 0 if _flat(made, arguments.minutes, arguments.viewers) else 1
        parts = arguments.part or list(_PARTS)
        found = [_pairs(made, part, arguments) for part in parts]
    print("\n| what must hold | figure | bound | |\n|---|---|---|---|")
    rows = [row for part, (none, all_) in zip(parts, found, strict=True) for row in _rows(part, none, all_)]
    for claim, figure, bound, holds in rows:
        print(f"| {claim} | {figure:.3f} | {bound} | {'held' if holds else '**NOT HELD**'} |")
    return 0 if all(holds for *_, holds in rows) else 1


def _pairs(made: Scene, part: str, arguments: argparse.Namespace) -> tuple[Figures, Figures]:
    """The medians without and with viewers. Each round has both, and the order changes from round to round."""
    found: dict[int, list[Figures]] = {0: [], arguments.viewers: []}
    _PARTS[part](made, 1.0)
    print(f"\n**{part}**\n\n| viewers | {' | '.join(title for _, title, _ in _COLUMNS)} |")
    print("|---" * (len(_COLUMNS) + 1) + "|", flush=True)
    for number in range(arguments.rounds):
        for count in sorted(found, reverse=bool(number % 2)):
            with made.viewers(count):
                found[count].append(_PARTS[part](made, arguments.seconds))
            _show(str(count), found[count][-1])
    none, all_ = (
        {key: median([each.get(key) for each in some]) for key, _, _ in _COLUMNS} for some in found.values()
    )
    _show("0, median", none)
    _show(f"{arguments.viewers}, median", all_)
    return none, all_


def _show(name: str, figures: Figures) -> None:
    cells = [f"{value:.{n}f}" if (value := figures.get(key)) is not None else "" for key, _, n in _COLUMNS]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _rows(part: str, none: Figures, all_: Figures) -> list[tuple[str, float, str, bool]]:
    if part == "idle":
        cost = (all_["core_pct"] or 0.0) - (none["core_pct"] or 0.0)
        return [("core % of viewers, idle", cost, f"≤ {IDLE_PCT}", cost <= IDLE_PCT)]
    if part == "streams":
        rate = ratio(all_["requests_per_s"], none["requests_per_s"]) or 0.0
        return [("requests/s at 64 streams, viewers ÷ none", rate, f"≥ {RATE}", rate >= RATE)]
    late = ratio(all_["took_p99_us"], none["took_p99_us"]) or 9.0
    return [("p99 at 64 streams, viewers ÷ none", late, f"≤ {P99}", late <= P99)]


def _flat(made: Scene, minutes: float, viewers: int) -> bool:
    def show(seconds: float, mib: float) -> None:
        print(f"| {seconds / 60:.1f} | {mib:.1f} |", flush=True)

    print("| minutes | MiB |\n|---|---|", flush=True)
    with made.viewers(viewers):
        found = memory(made, minutes, show)
    holds = found.growth <= GROWTH
    print(f"\nslope of the last three quarters: {found.slope_mib_per_hour:+.2f} MiB an hour")
    print(
        f"last quarter ÷ second: {found.growth:.3f}, at most {GROWTH}: {'held' if holds else '**NOT HELD**'}"
    )
    return holds
