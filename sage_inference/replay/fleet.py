"""Modelled engines, and the instances under which the scheduler knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nextafter
from typing import Any

from sage_inference.replay.encoder_engine import EncoderEngine
from sage_inference.replay.events import Events, MovableEvent
from sage_inference.replay.gpu import GPU
from sage_inference.replay.learning import Learned
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine
from sage_inference.replay.pooling_engine import PoolingEngine
from sage_inference.replay.recording import Recording
from sage_inference.simulator.timing import USUAL, StepTimes
from sage_inference.types import ExecutionInstance, ExecutionInstanceType

LLM_MODEL = "llm"
EMBEDDING_MODEL = "embedding"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(slots=True)
class ModelledFleet:
    """One run's engines by name. ``gpus`` are in order of creation.

    Without ``late_binding`` each request is sent at once and waits in the engine. ``llm_share`` is the LLM's
    share of a shared GPU's time; None gives it as much as its streams need. ``encoder`` makes the embedding engines:
    vLLM's, or ``EncoderEngine`` for TEI's, which use the GPU for all of their time.
    """

    limits: EngineLimits = field(default_factory=EngineLimits)
    times: StepTimes = USUAL  # of LLM engines
    late_binding: bool = True
    llm_share: float | None = 0.7
    encoder: Callable[[Events], PoolingEngine | EncoderEngine] = PoolingEngine
    events: Events = field(default_factory=Events)
    engines: dict[str, LLMEngine | PoolingEngine | EncoderEngine] = field(default_factory=dict)
    instances: list[ExecutionInstance] = field(default_factory=list)
    gpus: list[GPU] = field(default_factory=list)
    models: Sequence[str] = ()  # further names that LLM engines serve

    @property
    def block_tokens(self) -> int:
        return self.limits.block_tokens

    def clock(self) -> float:
        """The virtual time in seconds."""
        return self.events.now / 1000

    def alarm(self, action: Callable[[], None]) -> Callable[[float], None]:
        """A function that sets when ``action`` runs: once ``clock`` has reached the seconds, not a rounding earlier."""
        alarm = MovableEvent(self.events, action)

        def set_to(seconds: float) -> None:
            ms = seconds * 1000
            alarm.set(ms if ms / 1000 >= seconds else nextafter(ms, inf))

        return set_to

    def add_llm(
        self,
        slots: int = 0,
        max_model_len: int = 0,
        times: StepTimes | None = None,
        models: Sequence[str] | None = None,
    ) -> None:
        """Add an LLM engine on a GPU of its own. ``slots`` 0 sets no limit on its concurrent requests.

        ``max_model_len`` is its context length in tokens; 0 means that the engine reports none. ``times`` and ``models``
        are its own, if they differ from the fleet's.
        """
        engine = LLMEngine(
            self.events, replace(self.limits, max_model_len=max_model_len), times or self.times
        )
        name = f"gpu-{len(self.gpus) + 1}"
        self._add(f"{name}-llm", engine, ExecutionInstanceType.GENERAL, slots=slots, models=models)
        if max_model_len:
            self.instances[-1].context_tokens = {LLM_MODEL: max_model_len}
        self.gpus.append(GPU(engine))

    def add_mixed(self) -> None:
        """Add an LLM engine and an embedding engine that share a GPU."""
        llm, encoder = LLMEngine(self.events, self.limits, self.times), self.encoder(self.events)
        llm.reports_steps = self.llm_share != 0.0
        name = f"gpu-{len(self.gpus) + 1}"
        self._add(f"{name}-llm", llm, ExecutionInstanceType.GENERAL, name)
        self._add(f"{name}-embedding", encoder, ExecutionInstanceType.EMBEDDING, name)
        self.gpus.append(GPU(llm, encoder))

    def _add(
        self,
        name: str,
        engine: LLMEngine | PoolingEngine | EncoderEngine,
        kind: ExecutionInstanceType,
        gpu: str | None = None,
        slots: int = 0,
        models: Sequence[str] | None = None,
    ) -> None:
        encodes = not isinstance(engine, LLMEngine)
        self.engines[name] = engine
        # The gateway's calls of embeddings have a window of their own.
        window = inf if encodes else float(self.limits.max_num_batched_tokens)
        instance = ExecutionInstance(
            name,
            "127.0.0.1",
            0,
            instance_type=kind,
            models=(EMBEDDING_MODEL,)
            if encodes
            else (LLM_MODEL, *(self.models if models is None else models)),
            routes=frozenset({EMBEDDINGS if encodes else CHAT}),
            max_concurrent_requests=slots,
            gpu=gpu,
            kv_tokens=self.limits.kv_tokens,
        )
        instance.load.window_tokens = window if self.late_binding else inf
        self.instances.append(instance)


def llm_fleet(instances: int, **how: Any) -> ModelledFleet:
    """``instances`` equal LLM engines, each on a GPU of its own."""
    fleet = ModelledFleet(**how)
    for _ in range(instances):
        fleet.add_llm()
    return fleet


def mixed_fleet(gpus: int, **how: Any) -> ModelledFleet:
    """``gpus`` GPUs, each with an LLM engine and an embedding engine."""
    fleet = ModelledFleet(**how)
    for _ in range(gpus):
        fleet.add_mixed()
    return fleet


def recorded_fleet(recording: Recording, limits: EngineLimits, learned: Learned) -> ModelledFleet:
    """Engines like the recorded ones, each on a GPU of its own."""
    fleet = ModelledFleet(limits, learned.times, late_binding=recording.late_binding)
    for name, facts in recording.engines.items():
        fleet.add_llm(
            facts.slots or 0, times=learned.of(name), models=[model for model in facts.models if model]
        )
    if not recording.engines:
        fleet.add_llm(models=tuple({outcome.job.model for outcome in recording.outcomes} - {""}))
    return fleet
