"""What the gateway must show against its peers, as figures of one run with their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.figures import ratio
from tests.bench.results import Results
from tests.bench.targets.peers import RUST

OURS = "sage-inference"
DIRECT = "direct"
_Figure = Callable[[Results], float | None]


@dataclass(frozen=True)
class Promise:
    """``least``: the bound is a lower one, else an upper one."""

    claim: str
    figure: _Figure
    bound: float
    least: bool = False
    digits: int = 2

    def holds(self, figure: float) -> bool:
        return figure >= self.bound if self.least else figure <= self.bound

    def bound_text(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:g}"


def _ours(scenario: str, key: str) -> _Figure:
    return lambda results: results.median(scenario, OURS, key)


def _against(peer: str, scenario: str, key: str) -> _Figure:
    return lambda results: ratio(results.median(scenario, OURS, key), results.median(scenario, peer, key))


def _added(results: Results, target: str, scenario: str, key: str) -> float | None:
    """What the target adds to direct access."""
    value, direct = results.median(scenario, target, key), results.median(scenario, DIRECT, key)
    return value - direct if value is not None and direct is not None else None


def _better(values: dict[str, float | None], most: bool) -> float | None:
    known = [value for value in values.values() if value is not None]
    return (max if most else min)(known) if known else None


def _against_better(scenario: str, key: str, *, most: bool = False, added: bool = False) -> _Figure:
    """Ours over the better Rust router's; ``most``: more is better."""

    def figure(results: Results) -> float | None:
        def value(target: str) -> float | None:
            return _added(results, target, scenario, key) if added else results.median(scenario, target, key)

        return ratio(value(OURS), _better({peer: value(peer) for peer in RUST}, most))

    return figure


def _count_off(results: Results) -> float | None:
    counted = results.median("plain", OURS, "counted")
    return None if counted is None else 100 * abs(counted - 1)


def _start_stall(results: Results) -> float | None:
    late = _added(results, OURS, "starts", "start_p99_us")
    return None if late is None else late / 1e3


PROMISES = (
    Promise(
        "plain, requests/s ÷ sglang-router's", _against("sglang-router", "plain", "per_s"), 1.5, least=True
    ),
    Promise("plain, requests/s ÷ vllm-router's", _against("vllm-router", "plain", "per_s"), 2.5, least=True),
    Promise("plain, CPU µs a request", _ours("plain", "cpu_us"), 33, digits=1),
    Promise("plain, requests/s ÷ nginx's", _against("nginx", "plain", "per_s"), 0.4, least=True),
    Promise("plain, requests/s ÷ LiteLLM's", _against("litellm", "plain", "per_s"), 50, least=True, digits=0),
    Promise("plain, engine's count off the load's, %", _count_off, 1),
    Promise("paced streams, CPU a chunk ÷ better Rust router's", _against_better("paced", "cpu_us"), 1.0),
    Promise(
        "saturated streams, chunks/s ÷ better Rust router's",
        _against_better("saturated", "chunks_per_s", most=True),
        0.95,
        least=True,
    ),
    Promise(
        "200 requests/s, added p50 ÷ better Rust router's",
        _against_better("rate", "latency_p50_us", added=True),
        0.7,
    ),
    Promise("200 requests/s, p99 ÷ better Rust router's", _against_better("rate", "latency_p99_us"), 1.0),
    Promise("stream start, p99 of the first chunks' added delay, ms", _start_stall, 5),
)
