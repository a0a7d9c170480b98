"""The SLOs of each model: those that the operator sets, and the defaults for the rest.

Of several values the first holds, each of the two times by itself:

1. the model's at the request's priority: ``scheduling.slo.models.M.background``
2. the priority's: ``scheduling.slo.background``
3. the model's: ``scheduling.slo.models.M``
4. the general one: ``scheduling.slo``
5. the default, which follows the engines' pace: see ``slowness``

A priority stands before a model because only its SLO keeps background work behind the rest. The last three are for
normal and more important requests: below, the time to the first token is 30 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from sage_inference.config.schema import join
from sage_inference.config.settings import ModelSloSettings, SloSettings, SloTimes
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.slo import DEFAULT, TPOT_MS, TTFT_MS, patience
from sage_inference.types import (
    ExecutionInstance,
    ExecutionInstanceType,
    RequestPriority,
    SchedulingRequest,
    Slo,
)

SETTING = "scheduling.slo"
USUAL_MS_PER_TOKEN = 0.03  # an H100 with a 7B model
CHANCE = 2.5  # streams beside the prompts, or embeddings on the GPU, make a usual engine look up to 2.2 times as slow
STEADY = 1.25  # the default follows changes beyond this factor

Row = tuple[Slo, ...]  # by priority


def slowness(instances: Sequence[ExecutionInstance], now: float = 1.0) -> float:
    """How many times as slow as usual a model's engines are, and so how many times as long its defaults; now ``now``.

    s = k / 0.03, k being the median of the instances' milliseconds a prompt token, the lower one of two. The defaults
    are 1000 ms · s to the first token, 30 times that below normal priority, and 50 ms · s a token.

    In k a prompt counts as 512 tokens at least: a short one takes a step of the streams beside it, which is no pace
    of prompts. A usual engine gets exactly the usual times: s below 2.5 counts as 1. s moves only when it is beyond 1.25
    times what held, because load raises paces, and longer SLOs let more load in. One slow instance among equals
    changes nothing. Instances that only embed or only decode don't count, nor those that have not learned a pace.
    """
    loads = [i.load for i in instances if works_off_prompts(i)]
    paces = sorted(load.busy_ms / load.paced_tokens for load in loads if load.taught)
    if not paces:
        return now
    found = paces[(len(paces) - 1) // 2] / USUAL_MS_PER_TOKEN
    if found < (CHANCE if now == 1.0 else CHANCE / STEADY):
        return 1.0
    return now if now / STEADY <= found <= now * STEADY else found


def works_off_prompts(instance: ExecutionInstance) -> bool:
    """Whether its pace is that of an LLM's prompts."""
    kind = instance.instance_type
    return kind.serves_llm and kind is not ExecutionInstanceType.DECODING


def _is_slow(instance: ExecutionInstance) -> bool:
    """Whether the pace of it alone could change a default."""
    load = instance.load
    return load.busy_ms >= CHANCE * USUAL_MS_PER_TOKEN * load.paced_tokens


def row(settings: SloSettings, own: tuple[str, ModelSloSettings] | None = None, slow: float = 1.0) -> Row:
    """The SLOs by priority of a model that has ``own`` settings under this name, and this ``slowness``."""
    return tuple(_slo(settings, own, slow, priority) for priority in RequestPriority)


def _slo(
    settings: SloSettings, own: tuple[str, ModelSloSettings] | None, slow: float, priority: RequestPriority
) -> Slo:
    default = SloTimes(ttft_ms=TTFT_MS * slow, tpot_ms=TPOT_MS * slow)
    name = "default" if slow == 1.0 else f"default, its engines being {slow:.1f} times as slow as usual"
    stated = [*_stated(settings, own, priority), (default, name, patience(priority))]
    ttft_ms, ttft_from, longer = next((t.ttft_ms, at, x) for t, at, x in stated if t.ttft_ms is not None)
    tpot_ms, tpot_from = next((t.tpot_ms, at) for t, at, _ in stated if t.tpot_ms is not None)
    return Slo(ttft_ms * longer, tpot_ms, ttft_from, tpot_from, ttft_times=longer)


def _stated(
    settings: SloSettings, own: tuple[str, ModelSloSettings] | None, priority: RequestPriority
) -> Iterator[tuple[SloTimes, str, float]]:
    """What is stated, where, and how many times as long the time to the first token is; first what holds first."""
    word = priority.name.lower()
    if own is not None:
        yield getattr(own[1], word), f"{_path(own[0])}.{word}", 1.0
    yield getattr(settings, word), f"{SETTING}.{word}", 1.0
    if own is not None:
        yield own[1], _path(own[0]), patience(priority)
    yield settings, SETTING, patience(priority)


@lru_cache(maxsize=1024)
def _path(model: str) -> str:
    """That of a model's own settings, as commands take it."""
    return join((*SETTING.split("."), "models", model))


class SloTable:
    """The SLOs of all models.

    ``differ``: some are not the usual default; only then requests carry theirs. ``soon_ms``: none is shorter, callers'
    deadlines left out.
    """

    def __init__(self, registry: Registry) -> None:
        self.differ = False
        self.soon_ms = TTFT_MS
        self._registry = registry
        self._settings = SloSettings()
        self._slow: dict[str, float] = {}
        self._rows: dict[str, Row] = {}
        self._others: Row = DEFAULT  # of models that are not among ``_rows``

    def configure(self, settings: SloSettings) -> None:
        """Names of models are read when ``renew`` is called next."""
        self._settings = settings

    def give(self, request: SchedulingRequest) -> None:
        """Let the request carry what holds now."""
        request.slo = self._rows.get(request.model, self._others)[request.priority]

    def of(self, model: str, priority: RequestPriority = RequestPriority.NORMAL) -> Slo:
        return self._rows.get(model, self._others)[priority]

    def tpot_ms(self, model: str) -> float:
        """The time of a token at normal priority."""
        return self.of(model).tpot_ms

    def follow(self) -> bool:
        """Look at the paces; whether an SLO changed."""
        found = self._look()
        if found == self._slow:
            return False
        self._slow = found
        self.renew()
        return True

    def renew(self) -> None:
        """Settings, names of models or paces may have changed."""
        settings = self._settings
        own = self._registry.by_served_model(settings.models)
        self._rows = {
            model: row(settings, own.get(model), self._slow.get(model, 1.0))
            for model in {**own, **self._slow}
        }
        self._others = row(settings)
        self.differ = bool(self._rows) or settings != SloSettings()
        self.soon_ms = min(slo.ttft_ms for each in (self._others, *self._rows.values()) for slo in each)

    def _look(self) -> dict[str, float]:
        """The models whose engines are slow.

        Engines that serve the same models are one group: an engine may serve hundreds of adapters.
        """
        instances = list(self._registry.instances.values())
        if not self._slow and not any(map(_is_slow, instances)):
            return {}
        serving: dict[str, list[int]] = {}
        for at, instance in enumerate(instances):
            for model in instance.models:
                serving.setdefault(model, []).append(at)
        known: dict[tuple[float, tuple[int, ...]], float] = {}
        found = {}
        for model, members in serving.items():
            now = self._slow.get(model, 1.0)
            key = now, tuple(members)
            if key not in known:
                known[key] = slowness([instances[at] for at in members], now)
            if known[key] != 1.0:
                found[model] = known[key]
        return found
