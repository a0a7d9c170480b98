"""Paces of instances relative to each other, learned from answers that are not streamed, and forgotten again.

The first byte of such an answer comes with the last, so it does not show the end of the prefill. The time of the whole
answer shows how fast its instance is beside the others that serve the model.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import msgspec

from sage_inference.control_plane.cost import ALIKE, DECODE_TOKENS, LONGEST_MS, bounded_pace, lower_median
from sage_inference.control_plane.instances.load import Placement, own_pace
from sage_inference.control_plane.instances.prefill_decode import leg_of
from sage_inference.control_plane.slo_table import works_off_prompts
from sage_inference.types import ExecutionInstance, InstanceLoad

BATCH = 200.0  # other requests that make an engine's step twice as long
PRIOR_STEPS = 512.0  # at the pace of the group; the first answers are weighed against them
MOST_STEPS = 512.0  # that one answer counts for
FARTHEST = 8.0  # times slower or faster than the group; more is not believed
HALF_LIFE_S = 45.0  # of the knowledge of an instance that gets no work
MOST_TRIALS = 2  # that make the half-life twice as long
_WELL = 10  # renewals until an instance counts as slow no more
RENEWED_S = 1.0
_LONGEST_S = 5.0  # of fading in one renewal, however long the last one is ago
# An instance that showed no pace for so long, while its peers did, fades though it has work. Its work shows none: a stream
# shows its pace only with its first byte, and embeddings on an LLM's instance never.
SILENT_S = HALF_LIFE_S
_ANSWERS = 2.0  # times its longest answer: until then the next one may still come
PIECE = 3000  # models of instances, about a microsecond each, that one call renews
_KEPT = 0.95  # of the past, at each answer
_SHIFT = 0.5  # of the way to the share of streams in the last second
_FADED_TOKENS = 2000.0  # the weight of faded knowledge from first bytes
# The first answers of an instance are all read, of the later ones one in eight, and the first after each renewal.
_SURE, _EVERY = 16, 8
_MODELS = 64  # of an instance, because all are looked at once a second
_WHOLE = ("done", "ended")  # outcomes of attempts whose answer came to its end


def steps_of(output_tokens: float, began_tokens: float, beside: float) -> float:
    """The engine's work during an answer, in steps of a request that runs alone.

    S = n·(1 + b/200) + P/267 with n output tokens, b other requests in flight, and P prompt tokens that the instance
    began meanwhile, the answer's own included. Without b and P, an instance that gets more work because it is fast would
    look slow.
    """
    return output_tokens * (1.0 + beside / BATCH) + began_tokens / DECODE_TOKENS


class Shown(msgspec.Struct, gc=False):
    """The time that answers of one model took on one instance: M milliseconds in U steps.

    ``answers_ms`` is the time of the answers without their prompts, and ``tokens`` are their tokens.
    """

    ms: float = 0.0
    steps: float = 0.0
    answers_ms: float = 0.0
    tokens: float = 0.0
    fresh: bool = False  # whether there was an answer since the last renewal

    def add(self, pace: float, steps: float) -> None:
        """M ← 0.95·M + w·pace and U ← 0.95·U + w, with w = min(steps, 512)."""
        self.fresh = True
        weight = min(steps, MOST_STEPS)
        self.ms = _KEPT * self.ms + weight * pace
        self.steps = _KEPT * self.steps + weight

    def add_answer(self, took_ms: float, tokens: float) -> None:
        self.answers_ms = _KEPT * self.answers_ms + max(0.0, took_ms)
        self.tokens = _KEPT * self.tokens + tokens

    def fade(self, typical: float, kept: float) -> None:
        """Move toward the typical pace, and to less weight; ``kept`` of the distance remains, as a ratio."""
        pace = typical * (self.ms / self.steps / typical) ** kept
        self.steps *= kept
        self.ms = pace * self.steps


class Beside(msgspec.Struct, gc=False):
    """An instance, and the instances that serve one of its models, itself among them."""

    peers: Sequence[ExecutionInstance]
    shown: dict[str, Shown] = msgspec.field(default_factory=dict)  # by model
    answers: int = 0  # that were read
    taught: int = 0  # of the instance's load, at the last renewal
    seen: int = 0  # of ``answers``, at the last renewal
    answer_s: float = 0.0  # the time of its longest answers of late
    silent_s: float = 0.0  # since it showed its pace, while it had work and its peers showed theirs
    trials: int = 0  # requests after which it was still slow
    well: int = 0  # renewals in a row, each with new answers, in which it was not slow


class RelativePaces:
    """The relative paces of instances: r = (M/d + 512) / (U + 512), with M and U of ``Shown``.

    d is the lower median of M/U of the model's instances. The pace that policies use becomes a·k + (1 − a)·K·r. k is the
    pace from first bytes, K the lower median of the k, and a the share of streams among the recent answers.

    The knowledge of an instance fades while it shows no pace and its peers do: the ratio to the group's pace comes half as
    near to 1 in 45 s. In the end the instance gets a request again, which shows how fast it is now. If it is still slow,
    the next trial comes later: 45 s become 90 s, then 180 s.
    """

    def __init__(self) -> None:
        self.due_at = -math.inf
        self._renewed_at = -math.inf
        self._of: dict[ExecutionInstance, Beside] = {}
        self._typical: dict[str, float] = {}  # d, by model
        self._usual: dict[int, float] = {}  # K, by the list of peers; of one renewal
        self._usual_now: dict[int, float] = {}  # the same of the paces to reckon with
        self._renewal: Iterator[int] | None = None  # the renewal under way; yields the work of each step

    def regroup(self, instances: Iterable[ExecutionInstance]) -> None:
        """Follow a change of the registry; ``instances`` are all that there are now."""
        serving: dict[str, list[ExecutionInstance]] = {}
        present = list(instances)
        for each in present:
            if works_off_prompts(each):  # an engine that only embeds has another kind of pace
                for model in each.models:
                    serving.setdefault(model, []).append(each)
        self._renewal = None  # it goes through instances that may have left
        known, self._of = self._of, {}
        for each in present:
            groups = [serving[model] for model in each.models] if works_off_prompts(each) else []
            peers = max(groups, key=len, default=[each])
            self._of[each] = beside = known.get(each) or Beside(peers)
            beside.peers = peers
            for model in [model for model in beside.shown if model not in each.models]:
                del beside.shown[model]

    def note(self, placement: Placement) -> None:
        """Note the load of an instance that gets a request whose answer will be read, and when the next one will be."""
        load, beside = placement.instance.load, self._of.get(placement.instance)
        if beside is None:
            return
        load.read_in = _EVERY if beside.answers >= _SURE else 1
        placement.begun_before = load.begun_tokens
        placement.beside = placement.instance.active_requests - 1
        shown = beside.shown.get(placement.request.model)
        if shown is not None:
            placement.token_ms = shown.answers_ms / shown.tokens

    def learn(self, placement: Placement, output_tokens: int) -> None:
        """An answer in one piece ended, with so many tokens in ``placement.answers`` choices."""
        beside, load = self._of.get(placement.instance), placement.instance.load
        ended, pushed = placement.ended_at, placement.pushed_at
        if beside is None or ended is None or pushed <= load.lost_at or pushed <= load.stalled_at:
            return
        if placement.outcome not in _WHOLE or placement.answers < 1 or leg_of(placement.request):
            return
        others = (placement.beside + placement.instance.active_requests) / 2
        began = load.begun_tokens - placement.begun_before
        took_ms, tokens = (ended - pushed) * 1000, output_tokens / placement.answers
        if not 0.0 < took_ms < LONGEST_MS or tokens <= 0:
            return
        shown = self._add(beside, placement.request.model, took_ms, steps_of(tokens, began, others))
        beside.answer_s = max(_KEPT * beside.answer_s, took_ms / 1000)
        shown.add_answer(took_ms - load.ms_per_token * placement.tokens, tokens)

    def _add(self, beside: Beside, model: str, took_ms: float, steps: float) -> Shown:
        pace = took_ms / steps
        typical = self._typical.get(model)
        if typical is not None:
            pace = min(max(pace, typical / FARTHEST), typical * FARTHEST)
        shown = beside.shown.get(model)
        if shown is None:
            # Names of adapters come and go: start over, because paces are soon learned.
            if len(beside.shown) >= _MODELS:
                beside.shown.clear()
            shown = beside.shown[model] = Shown()
        shown.add(pace, steps)
        beside.answers += 1
        return shown

    def renew(self, now: float) -> bool:
        """Follow what was learned since the last renewal. To be called at ``due_at`` and later, while there is work.

        Returns whether the renewal is complete. With many instances and models a call does a piece of it, and the next call
        goes on.
        """
        if self._renewal is None:
            self._renewal = self._renewed(now)
        work = 0
        for done in self._renewal:
            work += done
            if work >= PIECE:
                self.due_at = now
                return False
        self._renewal = None
        self.due_at = now + RENEWED_S
        return True

    def _renewed(self, now: float) -> Iterator[int]:
        seconds = min(max(0.0, now - self._renewed_at), _LONGEST_S)
        half_lives = seconds / HALF_LIFE_S
        self._renewed_at = now
        streamed = {i for i, beside in self._of.items() if i.load.taught != beside.taught}
        taught = streamed | {i for i, beside in self._of.items() if beside.answers != beside.seen}
        # As counted now: an answer that comes between two pieces counts for the next renewal.
        counted = {i: (i.load.taught, beside.answers) for i, beside in self._of.items()}
        self._typical = yield from _typical(self._of.values())
        self._usual.clear()
        self._usual_now.clear()
        for instance, beside in self._of.items():
            if instance in taught:
                beside.silent_s = 0.0
                self._fade_unused(beside, 0.5**half_lives)
                self._weigh(instance.load, beside, instance in streamed)
                beside.taught, beside.seen = counted[instance]
            elif not taught.isdisjoint(beside.peers):
                if instance.active_requests and beside.silent_s < max(SILENT_S, _ANSWERS * beside.answer_s):
                    # Its answers are still to come. They show more than time does.
                    beside.silent_s += seconds
                else:
                    self._fade(instance.load, beside, 0.5 ** (half_lives / 2**beside.trials))
                    beside.seen = beside.answers
            instance.load.read_in = 1
            yield 4 + len(beside.shown)

    def _weigh(self, load: InstanceLoad, beside: Beside, streamed: bool) -> None:
        """Combine both kinds of pace by the kinds of its recent answers."""
        beside.well = 0 if self._is_slow(load, beside) else beside.well + 1
        if beside.well >= _WELL:
            beside.trials = 0
        if not beside.shown:
            return
        share = 0.5 if streamed and beside.answers != beside.seen else float(streamed)
        load.own_share += _SHIFT * (share - load.own_share)
        self._combine(load, beside)

    def _fade(self, load: InstanceLoad, beside: Beside, kept: float) -> None:
        was_slow = self._is_slow(load, beside)
        if load.taught:
            usual = self._usual_pace(beside.peers)
            pace = usual * (own_pace(load) / usual) ** kept
            stepped = load.paced_tokens / load.busy_tokens
            if load.busy_tokens > _FADED_TOKENS:
                load.busy_tokens = _FADED_TOKENS + (load.busy_tokens - _FADED_TOKENS) * kept
            load.busy_ms, load.paced_tokens = pace * load.busy_tokens, stepped * load.busy_tokens
        self._fade_unused(beside, kept)
        beside.answers = 0
        self._combine(load, beside)
        if was_slow and not self._is_slow(load, beside):
            beside.trials = min(beside.trials + 1, MOST_TRIALS)

    def _fade_unused(self, beside: Beside, kept: float) -> None:
        """Fade the knowledge of models without an answer since the last renewal."""
        for model, shown in list(beside.shown.items()):
            if shown.fresh:
                shown.fresh = False
                continue
            if model not in self._typical:
                continue  # its first answer came while this renewal was under way
            shown.fade(self._typical[model], kept)
            if shown.steps < 1.0:
                del beside.shown[model]

    def _combine(self, load: InstanceLoad, beside: Beside) -> None:
        part = (1.0 - load.own_share) * self._usual_pace(beside.peers)
        load.whole_part = part * relative(beside.shown, self._typical)
        load.ms_per_token = bounded_pace(own_pace(load) * load.own_share + load.whole_part)

    def _usual_pace(self, peers: Sequence[ExecutionInstance]) -> float:
        """K, computed once for all instances with the same peers."""
        found = self._usual.get(id(peers))
        if found is None:
            found = self._usual[id(peers)] = lower_median([own_pace(each.load) for each in _learned(peers)])
        return found

    def _known(self, peers: Sequence[ExecutionInstance]) -> Sequence[ExecutionInstance]:
        """The peers of which anything is known; all if nothing is."""
        return [each for each in peers if each.load.taught or self._of[each].shown] or peers

    def _is_slow(self, load: InstanceLoad, beside: Beside) -> bool:
        """Whether it is so slow beside its peers that policies do not count them as alike."""
        peers = beside.peers
        found = self._usual_now.get(id(peers))
        if found is None:
            paces = [each.load.ms_per_token for each in self._known(peers)]
            found = self._usual_now[id(peers)] = lower_median(paces)
        return load.ms_per_token > ALIKE * found


def _learned(peers: Sequence[ExecutionInstance]) -> Sequence[ExecutionInstance]:
    """The peers whose pace first bytes have shown; all if none has."""
    return [each for each in peers if each.load.taught] or peers


def relative(shown: Mapping[str, Shown], typical: Mapping[str, float]) -> float:
    """r of an instance, over all its models."""
    known = [(each, typical[model]) for model, each in shown.items() if model in typical]
    ms = sum([each.ms / own for each, own in known])
    steps = sum([each.steps for each, _ in known])
    return (ms + PRIOR_STEPS) / (steps + PRIOR_STEPS)


def _typical(known: Iterable[Beside]) -> Generator[int, None, dict[str, float]]:
    """d of each model; yields the work of each step."""
    paces: dict[str, list[float]] = {}
    for beside in list(known):
        for model, shown in beside.shown.items():
            paces.setdefault(model, []).append(shown.ms / shown.steps)
        yield len(beside.shown) // 4
    found = {}
    for model, own in paces.items():
        found[model] = lower_median(own)
        yield 1 + len(own) // 8
    return found
