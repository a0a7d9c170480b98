"""``sage inference replay`` of what was recorded, beside what was measured. It needs no engine and no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown, ratio
from tests.bench.gpu.parts.policies import POLICIES, SLO
from tests.bench.gpu.run import Row, Run
from tests.support.gateway import clean_environment

FIGURES = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "good_share")
WITHIN = 0.15
_STEP_S = 5.0
_LIMIT_S = 300.0


def play(run: Run, options: Options) -> None:
    """Each record of ``policies`` and ``closed`` under the policy that it was made with, by times learned from it."""
    for row in [row for row in run.rows.values() if row.get("record")]:
        part, _, rest = row["key"].partition("/")
        if part == "policies":
            run.step(f"replayed/{rest}", _STEP_S, partial(_replayed, run, row))
        elif part == "closed":
            about = {"traffic": f"closed {row['streams']}", "policy": row["way"], "slo": SLO}
            run.step(f"replayed/{row['key']}", _STEP_S, partial(_replayed, run, row | about))


def _replayed(run: Run, row: Row) -> Row:
    found = _replay(run, row)
    simulated = {
        "ttft_p50_ms": found["ttft_ms"]["p50"],
        "ttft_p99_ms": found["ttft_ms"]["p99"],
        "tpot_p50_ms": found["tpot_ms"]["p50"],
        "good_share": found["goodput"],
    }
    about = {name: row[name] for name in ("traffic", "round", "policy")}
    return {
        **about,
        **{f"measured_{name}": row.get(name) for name in FIGURES},
        **{f"simulated_{name}": simulated[name] for name in FIGURES},
    }


def _replay(run: Run, row: Row) -> dict[str, Any]:
    slo = dict(pair.split("=") for pair in row["slo"].split(","))
    policy = POLICIES[row["policy"]]["policy"]
    # Without ``--instances`` the engines are those of the record, which also has whether requests waited in the gateway.
    command = ["replay", str(run.results / "records" / row["record"]), "--policy", policy, "--json"]
    command += ["--slo-ttft-ms", slo["ttft"], "--slo-tpot-ms", slo["tpot"]]
    shown = subprocess.run(
        [sys.executable, "-m", "sage_inference", "inference", *command],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
        env=clean_environment(run.results / "home"),
    )
    if shown.returncode != 0:
        raise BenchError(f"replay of {row['record']} ended with {shown.returncode}: {shown.stderr[-300:]}")
    document = json.loads(shown.stdout)
    found: dict[str, Any] = document["policies"][0]
    return found


def table(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        if "error" in row:
            continue
        cells = []
        for name in FIGURES:
            off = ratio(row[f"simulated_{name}"], row[f"measured_{name}"])
            cells.append("-" if off is None else f"{100 * (off - 1):+.0f} %")
        lines.append([row["traffic"], row["round"], row["policy"], *cells])
    head = ("traffic", "round", "policy", "TTFT p50", "TTFT p99", "TPOT p50", "goodput")
    about = f"Simulated over measured; within {100 * WITHIN:.0f} % is the aim."
    return [about, "", *markdown(head, lines), *failed(rows)]


PART = Part(
    "replayed",
    "replay of the recorded traffic against what was measured (no GPU needed)",
    play,
    table,
)
