"""The cases: what the division of models among gateways costs, and what the death of a gateway does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sage_inference.replay.fleet import ModelledFleet, llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from tests.bench.many.gateways import ENGINES, MODELS, by_model, fleet_of_models, of_all, of_models
from tests.bench.many.takeover import Pair, play_takeover
from tests.bench.traces import workloads
from tests.bench.traces.contest import Result, points

MINUTE_MS = 60_000.0
DIES_MS = 60_000.0
MOVED_MS = 4_000.0  # keepalived's address is taken over after three missed notices, a second apart
SAME = 0.5  # points of goodput
LOST = 3.0  # points of goodput, in the minute after a takeover


def _divided(name: str, jobs: list[Job]) -> Result:
    """The pieces of a workload, one for each of eight models, before 1, 2, 4 and 8 gateways."""
    result = Result(f"{name}, {MODELS} models of {ENGINES} engines")
    jobs = by_model(jobs)
    one = result.add("1 gateway", _quiet(of_models(jobs, 1)))
    for gateways in (2, 4, 8):
        name = f"{gateways} gateways that divide the models"
        each = result.add(name, _quiet(of_models(jobs, gateways)))
        result.at_least(f"{name}: goodput over one's, points", points(each, one), -SAME)
    result.add(
        "2 gateways, both with all models", _quiet(of_all(jobs, 2)), "neither knows what the other sends"
    )
    return result


def _quiet(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.job.tenant != "noisy"]


def mooncake_16(part: float) -> Result:
    """Mooncake conversation at 1.6 times its speed."""
    return _divided("mooncake x1.6", workloads.mooncake(1.6, part))


def mooncake_22(part: float) -> Result:
    """Mooncake conversation at 2.2 times its speed."""
    return _divided("mooncake x2.2", workloads.mooncake(2.2, part))


def azure_12(part: float) -> Result:
    """Azure conversation at 12 times its speed."""
    return _divided("azure x12", workloads.azure(12, part))


def prefix_tenants(part: float) -> Result:
    """400 tenants with 6,144-token prefixes, 32 requests/s for each model."""
    return _divided("400 shared prefixes", workloads.prefix_tenants(480 * part, 32))


def noisy_tenant(part: float) -> Result:
    """One tenant floods half of the models. One gateway counts its work everywhere, several each count their own."""
    return _divided("noisy tenant (quiet ones' figures)", workloads.noisy_tenant(480 * part))


def takeover_mooncake_16(part: float) -> Result:
    return _taken_over("mooncake x1.6", by_model(workloads.mooncake(1.6, part)), fleet_of_models)


def takeover_mooncake_22(part: float) -> Result:
    return _taken_over("mooncake x2.2", by_model(workloads.mooncake(2.2, part)), fleet_of_models)


def takeover_azure(part: float) -> Result:
    return _taken_over("azure x12", workloads.azure(12, part), _engines)


def takeover_chats(part: float) -> Result:
    return _taken_over("growing chats", workloads.growing_chats(240 * part, 20), _engines)


def takeover_prefixes(part: float) -> Result:
    return _taken_over("400 shared prefixes", workloads.prefix_tenants(240 * part, 32), _engines)


def takeover_edge(part: float) -> Result:
    """A load that the engines take in time only because the gateway knows where each prefix is. It has no bound."""
    jobs = workloads.prefix_tenants(240 * part, 64)
    return _taken_over("400 shared prefixes, 64 requests/s", jobs, _engines, bound=False)


def _engines() -> ModelledFleet:
    return llm_fleet(ENGINES)


def _taken_over(
    name: str, jobs: Sequence[Job], fleet: Callable[[], ModelledFleet], *, bound: bool = True
) -> Result:
    """One gateway before all engines dies at 60 s. The figures are those of the requests of the minute after it."""
    result = Result(f"{name}: the minute after a takeover at 60 s")
    base = result.add("no takeover", _minute(play_takeover(jobs, fleet(), None).outcomes))
    at_once = play_takeover(jobs, fleet(), DIES_MS)
    ours = result.add("a second address, at once", _minute(at_once.outcomes, at_once), _note(at_once))
    moved = play_takeover(jobs, fleet(), DIES_MS, MOVED_MS)
    result.add("the address moves in 4 s", _minute(moved.outcomes, moved), _note(moved))
    if bound:
        result.at_most("goodput lost, points", points(base, ours), LOST)
    return result


def _minute(outcomes: Iterable[Outcome], pair: Pair | None = None) -> list[Outcome]:
    """The requests of the minute; those that were sent again are not among them."""
    again = {id(outcome) for outcome in pair.repeated} if pair else set()
    return [o for o in outcomes if DIES_MS <= o.job.at_ms < DIES_MS + MINUTE_MS and id(o) not in again]


def _note(pair: Pair) -> str:
    return f"{len(pair.lost):,} under way, {100 * _good(pair.repeated):.0f} % good when sent again"


def _good(outcomes: Sequence[Outcome]) -> float:
    result = Result("")
    return result.add("", outcomes).goodput


CASES: dict[str, Callable[[float], Result]] = {
    "mooncake-1.6": mooncake_16,
    "mooncake-2.2": mooncake_22,
    "azure-12": azure_12,
    "prefix-tenants": prefix_tenants,
    "noisy-tenant": noisy_tenant,
    "takeover-mooncake-1.6": takeover_mooncake_16,
    "takeover-mooncake-2.2": takeover_mooncake_22,
    "takeover-azure-12": takeover_azure,
    "takeover-chats": takeover_chats,
    "takeover-prefixes": takeover_prefixes,
    "takeover-edge": takeover_edge,
}
