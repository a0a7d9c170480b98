"""Divides the GPUs of this machine among managed engines, and the memory of each GPU among those on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.config.sizes import budget
from sage_inference.engines.managed.gpus import Gpu, gib, holders_of
from sage_inference.engines.managed.launch import LaunchError

GIB = 1 << 30
# The part of a GPU that engines may take together. vLLM's own default for one engine.
USABLE = 0.92
# An engine beside its weights: context, activations, and the batch that it warms up with.
_BESIDE_WEIGHTS = 2 * GIB
_EMBEDDER_FACTOR = 1.3
_LEAST_FACTOR = 1.15
_LEAST_BESIDE = int(1.5 * GIB)
# Weights of a model whose files are not known yet.
_UNKNOWN_EMBEDDER = 2 * GIB
# vLLM compares its share with what is free after its own CUDA context was made.
_SLACK = 1 * GIB
_TENSOR_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One engine's wish. ``weights`` are bytes in memory, None if unknown. ``held`` are GPUs that it has already.

    ``is_small``: it serves no text, and needs no more memory than its weights, one batch and ``cache``.
    """

    name: str
    engine: ManagedEngineSettings
    is_small: bool
    weights: int | None = None
    heads: int | None = None
    held: tuple[int, ...] = ()
    cache: int = 0


@dataclass(frozen=True, slots=True)
class GpuBudget:
    """The GPUs of one engine and its budget on each in bytes. No GPUs: it runs on the CPU, or we cannot see the GPUs."""

    gpus: tuple[Gpu, ...] = ()
    budget: int = 0
    is_cpu: bool = False

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(gpu.index for gpu in self.gpus)

    @property
    def share(self) -> float:
        """The budget as a part of the smallest GPU's total, rounded down to a thousandth."""
        # A budget is a whole number of bytes, so an exact share comes out a little smaller.
        return int(self.budget * 1000 / min(gpu.total for gpu in self.gpus) + 1e-4) / 1000


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that the gateway's own environment shows. ``auto`` takes no other."""
    words = environ.get("CUDA_VISIBLE_DEVICES")
    if words is None or "MIG-" in words:
        return list(gpus)
    named = [word.strip() for word in words.split(",")]
    return [gpu for gpu in gpus if any(_is(gpu, word) for word in named)]


def place(name: str, engines: Sequence[Wanted], gpus: Sequence[Gpu]) -> GpuBudget:
    """The placement of the engine ``name`` among all ``engines``. Raises ``LaunchError``.

    The order of starts does not matter: each call divides the same GPUs among the same engines.
    """
    mine = next(each for each in engines if each.name == name)
    if mine.engine.gpus == ("cpu",):
        return GpuBudget(is_cpu=True)
    chosen = _chosen(engines, gpus, name)
    ours = chosen[name]
    _check_parallel(mine, ours, gpus)
    if not ours:
        return GpuBudget()
    return GpuBudget(tuple(ours), min(_budget(mine, gpu, engines, chosen) for gpu in ours))


def _chosen(engines: Sequence[Wanted], gpus: Sequence[Gpu], name: str) -> dict[str, list[Gpu]]:
    """The GPUs of each engine: first those that settings or running engines fix, then the others in their order."""
    chosen: dict[str, list[Gpu]] = {}
    room = {gpu.index: gpu.free for gpu in gpus}
    for each in engines:
        fixed = _fixed(each, gpus, strict=each.name == name)
        if fixed is not None:
            chosen[each.name] = fixed
            if not each.held:  # otherwise its memory is no longer free
                _take(room, each, fixed)
    for each in engines:
        if each.name not in chosen:
            count = _count(each, gpus)
            ranked = sorted(gpus, key=lambda gpu: (-room[gpu.index], gpu.index))
            chosen[each.name] = sorted(ranked[:count], key=lambda gpu: gpu.index)
            _take(room, each, chosen[each.name])
    return chosen


def _take(room: dict[int, int], wanted: Wanted, gpus: Sequence[Gpu]) -> None:
    for gpu in gpus:
        room[gpu.index] -= _stated(wanted, gpu) or _need(wanted, len(gpus))


def _fixed(wanted: Wanted, gpus: Sequence[Gpu], *, strict: bool) -> list[Gpu] | None:
    """The GPUs that are fixed; None if they are to be chosen. ``strict`` raises for a GPU that does not exist."""
    if wanted.held:
        return [gpu for gpu in gpus if gpu.index in wanted.held]
    if wanted.engine.gpus == ("cpu",):
        return []
    if wanted.engine.gpus == ("auto",):
        return None
    found = []
    for word in wanted.engine.gpus:
        gpu = next((each for each in gpus if _is(each, word)), None)
        if gpu is not None:
            found.append(gpu)
        elif strict:
            raise _no_such_gpu(word, gpus)
    return found


def _is(gpu: Gpu, word: str) -> bool:
    return str(gpu.index) == word or (word.startswith("GPU-") and gpu.uuid.lower().startswith(word.lower()))


def _no_such_gpu(word: str, gpus: Sequence[Gpu]) -> LaunchError:
    if not gpus:
        return LaunchError(
            f"gpus lists {word}, and no NVIDIA GPU is visible here",
            "nvidia-smi shows whether the driver works",
        )
    there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
    return LaunchError(f"gpus lists {word}, and there is no such GPU", f"there are {there}")


def _count(wanted: Wanted, gpus: Sequence[Gpu]) -> int:
    """As many GPUs as the settings ask for, otherwise as few as hold the weights."""
    if wanted.engine.tensor_parallel or not gpus:
        return wanted.engine.tensor_parallel
    usable = USABLE * max(gpu.total for gpu in gpus)
    for count in _TENSOR_PARALLEL:
        divides = not wanted.heads or wanted.heads % count == 0
        if count <= len(gpus) and divides and _need(wanted, count) <= usable:
            return count
    return 1  # the refusal for lack of memory explains it best


def _check_parallel(wanted: Wanted, ours: Sequence[Gpu], gpus: Sequence[Gpu]) -> None:
    asked = wanted.engine.tensor_parallel
    divided = asked or (len(ours) if wanted.engine.gpus != ("auto",) else 1)
    if asked > len(ours) and (gpus or asked > 1):
        raise LaunchError(
            f"tensor_parallel is {asked}, and this machine shows {len(gpus)} NVIDIA GPU{'s' * (len(gpus) != 1)}",
            "lower tensor_parallel, or leave it out",
        )
    if divided > 1 and wanted.heads and wanted.heads % divided:
        raise LaunchError(
            f"{divided} GPUs cannot divide the model's {wanted.heads} attention heads evenly",
            "set tensor_parallel, and gpus, to 1, 2, 4 or 8",
        )


def _stated(wanted: Wanted, gpu: Gpu) -> int | None:
    return budget(wanted.engine.memory).of(gpu.total) if wanted.engine.memory else None


def _need(wanted: Wanted, count: int) -> int:
    """The least memory on each of ``count`` GPUs: the weights, and what an engine needs beside them."""
    weights = _UNKNOWN_EMBEDDER if wanted.weights is None else wanted.weights
    factor, beside = (
        (_EMBEDDER_FACTOR, _BESIDE_WEIGHTS) if wanted.is_small else (_LEAST_FACTOR, _LEAST_BESIDE)
    )
    return int((weights * factor + wanted.cache) / count) + beside


def _budget(mine: Wanted, gpu: Gpu, engines: Sequence[Wanted], chosen: dict[str, list[Gpu]]) -> int:
    stated = _stated(mine, gpu)
    if stated is not None:
        return stated
    if mine.is_small:
        return min(_need(mine, len(chosen[mine.name])), int(gpu.total * USABLE))
    rest, sharing = gpu.total * USABLE, 0
    for each in engines:
        if gpu not in chosen[each.name]:
            continue
        fixed = _stated(each, gpu) or (_need(each, len(chosen[each.name])) if each.is_small else None)
        rest -= fixed or 0
        sharing += fixed is None
    return max(0, int(rest / sharing))


def check_room(mine: Wanted, placement: GpuBudget) -> GpuBudget:
    """The placement, with the budget lowered to what other programs leave free if the settings name none.

    Raises ``LaunchError`` if that is not enough.
    """
    found = placement
    for gpu in placement.gpus:
        least = found.budget if mine.engine.memory or mine.is_small else _need(mine, len(placement.gpus))
        weights = (mine.weights or 0) // len(placement.gpus)
        if weights > found.budget:
            raise LaunchError(
                f"the weights take {gib(weights)} on GPU {gpu.index}, "
                f"and the engine may use {gib(found.budget)}",
                "raise memory, list more GPUs, or choose a smaller or quantized model",
            )
        is_fixed = bool(mine.engine.memory) or mine.is_small
        if gpu.free >= found.budget + (0 if is_fixed else _SLACK):
            continue
        if is_fixed or gpu.free - _SLACK < least:
            raise _too_little(mine.name, gpu, least)
        found = GpuBudget(found.gpus, gpu.free - _SLACK)
    return found


def _too_little(name: str, gpu: Gpu, needed: int) -> LaunchError:
    message = f"GPU {gpu.index} has {gib(gpu.free)} free, and {name} needs {gib(needed)}"
    if needed > gpu.total:
        return LaunchError(
            f"GPU {gpu.index} has {gib(gpu.total)}, and {name} needs {gib(needed)}",
            "list more GPUs, or choose a smaller or quantized model",
        )
    holders = holders_of(gpu)
    message += f"; {holders}" if holders else ""
    return LaunchError(
        message, f"end what holds the memory, or set a smaller memory for {name}", waits_for_memory=True
    )
