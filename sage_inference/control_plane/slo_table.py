"""The SLOs of each model: those that the operator sets, and the defaults for the rest.

For each of the two times, the first of these values applies:

1. the model's at the request's priority: ``scheduling.slo.models.M.background``
2. the priority's: ``scheduling.slo.background``
3. the model's: ``scheduling.slo.models.M``
4. the general one: ``scheduling.slo``
5. the default, which follows the engines' pace: see ``slowness``

A priority comes before a model because only its SLO keeps background work behind the rest. The last three are for normal
and more important requests. Below normal priority the time to the first token is 30 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from sage_inference.config.schema import join
from sage_inference.config.settings import ModelSloSettings, SloSettings, SloTimes
from sage_inference.control_plane.accounting.prompt_share import DEAR
from sage_inference.control_plane.cost import lower_median
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
CHANCE = 2.5  # with streams beside its prompts, or embeddings on its GPU, a usual engine looks up to 2.2 times as slow
STEADY = 1.25  # the default follows changes beyond this factor

PIECE = 20_000  # models and instances, some 0.1 microseconds each, that one look at the paces goes through

Row = tuple[Slo, ...]  # by priority


def slowness(instances: Sequence[ExecutionInstance], now: float = 1.0) -> float:
    """The factor by which a model's engines are slower than usual, and its default SLO longer; at present ``now``.

    s = k / 0.03, k being the median of the instances' milliseconds a prompt token, the lower one of two. The defaults
    are 1000 ms · s to the first token, 30 times that below normal priority, and 50 ms · s a token.

    In k a prompt counts as 512 tokens at least: a short one takes a step of the streams beside it, which is no pace
    of prompts. A usual engine gets exactly the usual times: s below 2.5 counts as 1. s moves only when it is beyond 1.25
    times the present one, because load raises paces, and longer SLOs let more load in. One slow instance among equals
    changes nothing. Instances that only embed or only decode do not count, nor those that have not shown a pace.
    """
    return _slowness([pace for i in instances if (pace := _shown_pace(i)) is not None], now)


def _slowness(paces: Sequence[float], now: float) -> float:
    if not paces:
        return now
    found = lower_median(paces) / USUAL_MS_PER_TOKEN
    if found < (CHANCE if now == 1.0 else CHANCE / STEADY):
        return 1.0
    return now if now / STEADY <= found <= now * STEADY else found


def _shown_pace(instance: ExecutionInstance) -> float | None:
    """Its milliseconds a prompt token, in prompts of 512 tokens at least; None if no first byte has shown them."""
    load = instance.load
    return load.busy_ms / load.paced_tokens if load.taught and works_off_prompts(instance) else None


def works_off_prompts(instance: ExecutionInstance) -> bool:
    """Whether its pace is that of an LLM's prompts."""
    kind = instance.instance_type
    return kind.serves_llm and kind is not ExecutionInstanceType.DECODING


def _is_slow(instance: ExecutionInstance) -> bool:
    """Whether the pace of this instance alone could change a default."""
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
    """The stated times, the path of each setting, and the factor of the time to the first token; in order of validity."""
    word = priority.name.lower()
    if own is not None:
        yield getattr(own[1], word), f"{_path(own[0])}.{word}", 1.0
    yield getattr(settings, word), f"{SETTING}.{word}", 1.0
    if own is not None:
        yield own[1], _path(own[0]), patience(priority)
    yield settings, SETTING, patience(priority)


@lru_cache(maxsize=1024)
def _path(model: str) -> str:
    """The path of a model's own settings, as commands take it."""
    return join((*SETTING.split("."), "models", model))


class SloTable:
    """The SLOs of all models.

    ``differ`` is False while all are the usual default: then requests need not carry theirs. No SLO has a shorter time to
    the first token than ``soon_ms``; deadlines of callers are left out. A prompt of at most ``short_ms`` is neither overdue
    when it comes, nor does it have to stand back for streams.
    """

    def __init__(self, registry: Registry) -> None:
        self.differ = False
        self.soon_ms = TTFT_MS
        self.short_ms = DEAR * TPOT_MS
        self._registry = registry
        self._settings = SloSettings()
        self._own: dict[
            str, tuple[str, ModelSloSettings]
        ] = {}  # what is stated for a model, and under which name
        self._slow: dict[str, float] = {}
        self._rows: dict[str, Row] = {}
        self._others: Row = DEFAULT  # of models that are not among ``_rows``
        self._known: dict[tuple[str | None, float], Row] = {}  # by the name that is stated, and the slowness
        # Engines that serve the same models are one group, because an engine may serve hundreds of adapters.
        self._groups: list[tuple[list[str], list[ExecutionInstance]]] = []
        self._grouped = -1  # the version of the registry whose groups these are
        self._next_group = 0

    def configure(self, settings: SloSettings) -> None:
        """Follow other settings from the next ``renew`` on: that reads the names of models, too."""
        self._settings = settings

    def give(self, request: SchedulingRequest) -> None:
        """Let the request carry the SLO that applies now."""
        request.slo = self._rows.get(request.model, self._others)[request.priority]

    def of(self, model: str, priority: RequestPriority = RequestPriority.NORMAL) -> Slo:
        return self._rows.get(model, self._others)[priority]

    def groups(self) -> list[tuple[list[str] | None, Row]]:
        """Models with the same SLOs, and their SLOs by priority; last the models that are not named (None)."""
        alike: dict[Row, list[str]] = {}
        for model, own in self._rows.items():
            alike.setdefault(own, []).append(model)
        return [*((models, own) for own, models in alike.items()), (None, self._others)]

    def tpot_ms(self, model: str) -> float:
        """The time of a token at normal priority."""
        return self.of(model).tpot_ms

    def follow(self) -> bool:
        """Follow the paces; returns whether an SLO changed."""
        if not self._look():
            return False
        self._derive()
        return True

    def renew(self) -> None:
        """Follow settings and names of models that may have changed."""
        self._own = self._registry.by_served_model(self._settings.models)
        self._known.clear()
        self._others = row(self._settings)
        served = {model for models, _ in self._grouped_now() for model in models} if self._slow else ()
        self._slow = {model: slow for model, slow in self._slow.items() if model in served}
        self._derive()

    def _derive(self) -> None:
        """The rows of models whose SLOs are not those of all others."""
        self._rows = {model: self._row(model) for model in {**self._own, **self._slow}}
        self.differ = bool(self._rows) or self._settings != SloSettings()
        # Many models have one row: each is looked at once.
        distinct = {id(each): each for each in (self._others, *self._rows.values())}
        self.soon_ms = min(slo.ttft_ms for each in distinct.values() for slo in each)
        self.short_ms = min(
            self.soon_ms, DEAR * min(slo.tpot_ms for each in distinct.values() for slo in each)
        )

    def _row(self, model: str) -> Row:
        own, slow = self._own.get(model), self._slow.get(model, 1.0)
        key = None if own is None else own[0], slow
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = row(self._settings, own, slow)
        return found

    def _look(self) -> bool:
        """Look at the paces of some groups, and of the others at the next calls; returns whether a slowness changed."""
        instances = self._registry.instances.values()
        slow_ones = {i for i in instances if _is_slow(i)}
        if not self._slow and not slow_ones:
            return False
        groups = self._grouped_now()
        paces = {i: pace for i in instances if (pace := _shown_pace(i)) is not None}
        changed, work = False, 0
        for _ in range(len(groups)):
            models, members = groups[self._next_group % len(groups)]
            self._next_group = (self._next_group + 1) % len(groups)
            work += len(models) + len(members)
            nows = {self._slow.get(model, 1.0) for model in models}
            if nows != {1.0} or not slow_ones.isdisjoint(members):
                own = [paces[i] for i in members if i in paces]
                found = {now: _slowness(own, now) for now in nows}
                changed |= self._note(models, found)
            if work >= PIECE:
                break
        return changed

    def _note(self, models: Sequence[str], found: dict[float, float]) -> bool:
        """The slowness of models, by what it was; returns whether any changed."""
        if all(before == after for before, after in found.items()):
            return False
        for model in models:
            after = found[self._slow.get(model, 1.0)]
            if after != 1.0:
                self._slow[model] = after
            else:
                self._slow.pop(model, None)
        return True

    def _grouped_now(self) -> list[tuple[list[str], list[ExecutionInstance]]]:
        """The groups as the registry is now: models, and the instances that serve them."""
        if self._grouped == self._registry.version:
            return self._groups
        self._grouped = self._registry.version
        # Instances with equal lists are taken together first: the models of each list are then gone through once.
        alike: dict[tuple[str, ...], list[ExecutionInstance]] = {}
        for instance in self._registry.instances.values():
            alike.setdefault(instance.models, []).append(instance)
        lists = list(alike.values())
        serving: dict[str, list[int]] = {}
        for number, models in enumerate(alike):
            for model in models:
                serving.setdefault(model, []).append(number)
        groups: dict[tuple[int, ...], list[str]] = {}
        for model, numbers in serving.items():
            groups.setdefault(tuple(numbers), []).append(model)
        self._groups = [
            (models, [i for number in numbers for i in lists[number]]) for numbers, models in groups.items()
        ]
        return self._groups
