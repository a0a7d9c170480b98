"""One run: its engines, its results, its time, and what was measured already."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench.errors import BenchError
from tests.bench.gpu.engines import Engines
from tests.bench.gpu.load import Load
from tests.support.gateway import Gateway, running_gateway

Row = dict[str, Any]
# What a line of the log shows; the table and the file have the rest.
_SHOWN = (
    "error ok seen took_s healthy_s texts_per_s bulk_texts_per_s embedding_texts_per_s output_per_s sent failed abandoned "
    "good_share hits ttft_p50_ms ttft_p99_ms ttft_max_ms tpot_p50_ms e2e_p50_ms e2e_p99_ms longest_wait_ms starving "
    "later_served noticed_s ready_s valid"
).split()


class OutOfTime(Exception):
    """The step would not end in time."""


class EngineMissing(Exception):
    """The message names the engines that are not healthy."""


@dataclass(slots=True)
class Door:
    """A gateway in front of engines, with the file that it records to."""

    gateway: Gateway
    record: Path

    @property
    def url(self) -> str:
        return self.gateway.url

    def cpu_s(self) -> float:
        times = psutil.Process(self.gateway.process.pid).cpu_times()
        return times.user + times.system


class Run:
    """``results``: the folder of this run. Steps that it has figures of are not measured again."""

    def __init__(
        self, results: Path, models: Path, traces: Path, within_s: float, simulated: float | None
    ) -> None:
        results.mkdir(parents=True, exist_ok=True)
        self.results = results
        self.traces = traces
        self.simulated = simulated
        self._began = time.monotonic()
        self._end = self._began + within_s
        self._part_end = self._end
        self._needs: Sequence[str] = ()
        self.engines = Engines(results, models, self.say, simulated)
        self._figures = results / "figures.jsonl"
        self.rows: dict[str, Row] = {row["key"]: row for row in read_rows(results)}
        self.failed = 0

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f}] {line}", file=sys.stderr, flush=True)

    def begin_part(self, name: str, needs: Sequence[str], cap_s: float) -> None:
        self.say(f"===== {name}")
        self._needs = needs
        self._part_end = min(self._end, time.monotonic() + cap_s)
        self.require(needs)

    def require(self, names: Sequence[str]) -> None:
        missing = [name for name in names if not self.engines.healthy(name)]
        if missing:
            raise EngineMissing(", ".join(missing))

    def left_s(self) -> float:
        return self._part_end - time.monotonic()

    def due(self, *keys: str) -> bool:
        """Whether any of these steps has no figures yet."""
        return any(key not in self.rows for key in keys)

    def step(self, key: str, cost_s: float, measure: Callable[[], Row]) -> Row:
        """The figures of a step: measured now, or before. A step that fails is reported, and the run goes on.

        Raises ``OutOfTime`` if less than ``cost_s`` is left, and ``EngineMissing`` if it failed for want of one.
        """
        if key in self.rows:
            return self.rows[key]
        if self.left_s() < cost_s:
            raise OutOfTime(key)
        began = time.monotonic()
        try:
            figures = measure()
        except (OutOfTime, EngineMissing):
            raise
        except Exception as error:
            self.failed += 1
            self.say(f"FAILED {key}: {error}")
            if not isinstance(error, BenchError):
                self.say(traceback.format_exc()[-1500:])
            self.require(self._needs)
            figures = {"error": str(error)}
        return self._keep({"key": key, "took_s": round(time.monotonic() - began, 2), **figures})

    def _keep(self, row: Row) -> Row:
        self.rows[row["key"]] = row
        with self._figures.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")
        shown = [f"{name}={_short(row[name])}" for name in _SHOWN if row.get(name) or row.get(name) is False]
        self.say(" ".join([row["key"], *shown]))
        return row

    def load(self, label: str, url: str, options: Mapping[str, object], limit_s: float) -> Load:
        """Start a load; its ``result`` has the figures."""
        return Load(self.results / "loads", label.replace("/", "-"), url, options, limit_s)

    @contextmanager
    def door(
        self,
        label: str,
        names: Sequence[str],
        scheduling: Mapping[str, Any] | None = None,
        *,
        gpu: bool = False,
        kinds: Mapping[str, str] | None = None,
        **config: Any,
    ) -> Iterator[Door]:
        """A fresh gateway in front of these engines, ready.

        ``gpu``: it knows which of them share one. ``kinds``: those of the engines that it does not find out itself.
        """
        records = self.results / "records"
        records.mkdir(exist_ok=True)
        record = records / f"{label.replace('/', '-')}.jsonl"
        instances = [
            {"url": self.engines.url(name), "name": name, "kind": (kinds or {}).get(name, "auto")}
            | ({"gpu": "0"} if gpu else {})
            for name in names
        ]
        document = {
            "instances": instances,
            "scheduling": {"record_file": str(record), **(scheduling or {})},
            **config,
        }
        with running_gateway(config=document) as gateway:
            try:
                yield Door(gateway, record)
            finally:
                logs = self.results / "logs"
                (logs / f"gateway-{label.replace('/', '-')}.log").write_text(gateway.log()[-200_000:])


def read_rows(results: Path) -> list[Row]:
    file = results / "figures.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def total_of(document: Mapping[str, Any]) -> Row:
    """The figures of a bench's document that a table has."""
    total = document["total"]
    errors = {one["kind"]: one["count"] for one in total["errors"]}
    row: Row = {name: total[name] for name in ("sent", "ok", "failed", "abandoned", "good_share")}
    row |= {
        "requests_per_s": total["requests_per_s"],
        "output_per_s": total["output_tokens_per_s"],
        "prompt_per_s": total["prompt_tokens_per_s"],
        "longest_wait_ms": total["waiting"]["longest_ms"],
        "starving": total["waiting"]["starving"],
        "generator_cpu": document["generator"]["cpu_share"],
    }
    for name in ("ttft", "tpot", "e2e"):
        found = total[f"{name}_ms"] or {}
        row |= {f"{name}_{mark}_ms": found.get(mark) for mark in ("p50", "p90", "p99", "max")}
    return row | ({"errors": errors} if errors else {})
