"""Makes a plan from the command's options: applies defaults, and checks values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sage_inference.bench import distribution, mix, slo, trace
from sage_inference.bench.errors import BenchError, OptionConflict, OptionError
from sage_inference.bench.exchange import Kind
from sage_inference.bench.mix import Mix
from sage_inference.bench.plan import Closed, Open, Plan, Replay
from sage_inference.bench.target import Target
from sage_inference.bench.workload import WorkloadShape

KIND = "stream"
INPUT_TOKENS = "128"
OUTPUT_TOKENS = "64"
TEXTS = "1"
CONCURRENCY = 16
DURATION_S = 10.0
TIMEOUT_S = 600.0
_MOST_CONNECTIONS = 20000
_MOST_PER_S = 1e6
_A_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The options as given. None if an option was not given."""

    kind: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    texts: str | None = None
    ignore_eos: bool = False
    seed: int = 0
    trace: str | None = None
    speedup: float | None = None
    rate: float | None = None
    concurrency: int | None = None
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float | None = None
    timeout_s: float | None = None
    slo: str | None = None
    ceiling: bool = True


@dataclass(frozen=True, slots=True)
class Checked:
    """Valid options: a plan without its server, which is looked up later."""

    given: Given
    shape: WorkloadShape
    load: Closed | Open | Replay

    @property
    def mix(self) -> Mix:
        return self.shape.mix

    def plan(self, target: Target, models: dict[Kind, str]) -> Plan:
        given = self.given
        endless = given.requests is None and not isinstance(self.load, Replay)
        return Plan(
            target=target,
            models=models,
            shape=self.shape,
            load=self.load,
            duration_s=DURATION_S if endless and given.duration_s is None else given.duration_s,
            requests=given.requests,
            warmup_s=given.warmup_s or 0.0,
            timeout_s=TIMEOUT_S if given.timeout_s is None else given.timeout_s,
            slo=slo.parse(given.slo),
            ceiling=given.ceiling,
        )


def check(given: Given) -> Checked:
    """Raises ``OptionError`` or ``OptionConflict``, and ``BenchError`` for an unreadable trace."""
    _check_numbers(given)
    _check_pairs(given)
    slo.parse(given.slo)
    shape = WorkloadShape(
        mix=mix.parse(given.kind or KIND),
        prompt=distribution.parse(given.input_tokens or INPUT_TOKENS, "--input-tokens"),
        output=distribution.parse(given.output_tokens or OUTPUT_TOKENS, "--output-tokens"),
        texts=distribution.parse(given.texts or TEXTS, "--texts"),
        ignore_eos=given.ignore_eos,
        seed=given.seed,
    )
    return Checked(given, shape, _load(given))


def _load(given: Given) -> Closed | Open | Replay:
    if given.trace is not None:
        return Replay(trace.read(_path(given.trace)), given.speedup or 1.0)
    if given.rate is not None:
        return Open(given.rate)
    return Closed(given.concurrency or CONCURRENCY)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BenchError(f"trace {text} cannot be read: there is no such home directory") from None


def _check_numbers(given: Given) -> None:
    _within("--rate", given.rate, 0.0, _MOST_PER_S)
    _within("--concurrency", given.concurrency, 1, _MOST_CONNECTIONS)
    _within("--duration", given.duration_s, 0.0, _A_DAY_S)
    _within("--requests", given.requests, 1, math.inf)
    _within("--timeout", given.timeout_s, 0.0, _A_DAY_S)
    _within("--speedup", given.speedup, 0.0, _MOST_PER_S)
    if given.warmup_s:
        _within("--warmup", given.warmup_s, 0.0, _A_DAY_S)


def _within(option: str, value: float | None, low: float, high: float) -> None:
    """Whole numbers may be equal to ``low``, others must be above it."""
    if value is None:
        return
    fits = low <= value <= high if isinstance(value, int) else low < value <= high
    if not fits:  # nan fails all comparisons
        reach = f"from {low:g}" if isinstance(value, int) else f"above {low:g}"
        most = "" if high == math.inf else f", at most {high:,.0f}"
        raise OptionError(option, f"{value:g}", f"a number {reach}{most}")


def _check_pairs(given: Given) -> None:
    if given.rate is not None and given.concurrency is not None:
        raise OptionConflict(
            "--rate", "--concurrency", "at a given rate the server's speed decides how many run at once"
        )
    if given.requests is not None and given.duration_s is not None:
        raise OptionConflict("--requests", "--duration", "each sets the end")
    if given.requests is not None and given.warmup_s:
        raise OptionConflict("--requests", "--warmup", "with a number of requests, all of them count")
    if given.trace is None:
        if given.speedup is not None:
            raise OptionError("--speedup", f"{given.speedup:g}", "of use without --trace FILE")
        return
    own = {
        "--rate": given.rate,
        "--concurrency": given.concurrency,
        "--input-tokens": given.input_tokens,
        "--output-tokens": given.output_tokens,
        "--texts": given.texts,
    }
    for option, value in own.items():
        if value is not None:
            raise OptionConflict("--trace", option, "a trace has its own arrivals and lengths")
