"""Modelled engines and the instances that the scheduler knows them as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nextafter
from typing import Any

from sage_inference.replay.encoder_engine import BATCH_TOKENS, EncoderEngine
from sage_inference.replay.events import Alarm, Events
from sage_inference.replay.gpu import GPU
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine
from sage_inference.types import ExecutionInstance, ExecutionInstanceType

LLM_MODEL = "llm"
EMBEDDING_MODEL = "embedding"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(slots=True)
class Fleet:
    """One run's engines by name. ``gpus`` are in the order of their making.

    ``late_binding`` False sends each request on at once, to wait in the engine. ``llm_share`` is the LLM's
    part of a shared GPU's time, None as much as its streams need.
    """

    limits: EngineLimits = field(default_factory=EngineLimits)
    late_binding: bool = True
    llm_share: float | None = 0.7
    events: Events = field(default_factory=Events)
    engines: dict[str, LLMEngine | EncoderEngine] = field(default_factory=dict)
    instances: list[ExecutionInstance] = field(default_factory=list)
    gpus: list[GPU] = field(default_factory=list)
    models: Sequence[str] = ()  # further names that LLM engines serve

    @property
    def block_tokens(self) -> int:
        return self.limits.block_tokens

    def clock(self) -> float:
        """Seconds, for what reads time."""
        return self.events.now / 1000

    def alarm(self, action: Callable[[], None]) -> Callable[[float], None]:
        """Lets it happen when ``clock`` says the seconds last asked for, not a rounding before."""
        alarm = Alarm(self.events, action)

        def set_to(seconds: float) -> None:
            ms = seconds * 1000
            alarm.set(ms if ms / 1000 >= seconds else nextafter(ms, inf))

        return set_to

    def add_llm(self, slots: int = 0, max_model_len: int = 0) -> None:
        """An LLM engine on a GPU of its own; ``slots`` 0 leaves its number of requests open.

        ``max_model_len`` is its context's length, where it reports one.
        """
        engine = LLMEngine(self.events, replace(self.limits, max_model_len=max_model_len))
        name = f"gpu-{len(self.gpus) + 1}"
        self._add(f"{name}-llm", engine, ExecutionInstanceType.GENERAL, slots=slots)
        if max_model_len:
            self.instances[-1].context_tokens = {LLM_MODEL: max_model_len}
        self.gpus.append(GPU(engine))

    def add_mixed(self) -> None:
        """An LLM engine and an embedding engine that share a GPU."""
        llm, encoder = LLMEngine(self.events, self.limits), EncoderEngine(self.events)
        llm.tells_steps = self.llm_share is None
        name = f"gpu-{len(self.gpus) + 1}"
        self._add(f"{name}-llm", llm, ExecutionInstanceType.GENERAL, name)
        self._add(f"{name}-embedding", encoder, ExecutionInstanceType.EMBEDDING, name)
        self.gpus.append(GPU(llm, encoder))

    def _add(
        self,
        name: str,
        engine: LLMEngine | EncoderEngine,
        kind: ExecutionInstanceType,
        gpu: str | None = None,
        slots: int = 0,
    ) -> None:
        encodes = isinstance(engine, EncoderEngine)
        self.engines[name] = engine
        window = 2.0 * BATCH_TOKENS if encodes else float(self.limits.max_num_batched_tokens)
        instance = ExecutionInstance(
            name,
            "127.0.0.1",
            0,
            instance_type=kind,
            models=(EMBEDDING_MODEL,) if encodes else (LLM_MODEL, *self.models),
            routes=frozenset({EMBEDDINGS if encodes else CHAT}),
            max_concurrent_requests=slots,
            gpu=gpu,
            kv_tokens=self.limits.kv_tokens,
        )
        instance.load.window_tokens = window if self.late_binding else inf
        self.instances.append(instance)


def llm_fleet(instances: int, **how: Any) -> Fleet:
    """So many equal LLM engines, a GPU each."""
    fleet = Fleet(**how)
    for _ in range(instances):
        fleet.add_llm()
    return fleet


def mixed_fleet(gpus: int, **how: Any) -> Fleet:
    """So many GPUs, with an LLM engine and an embedding engine each."""
    fleet = Fleet(**how)
    for _ in range(gpus):
        fleet.add_mixed()
    return fleet
