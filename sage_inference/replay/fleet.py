"""Modelled engines and the instances that the scheduler knows them as."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_inference.replay.encoder_engine import EncoderEngine
from sage_inference.replay.events import Events
from sage_inference.replay.gpu import GPU
from sage_inference.replay.llm_engine import EngineLimits, LLMEngine
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType

LLM_MODEL = "llm"
EMBEDDING_MODEL = "embedding"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(slots=True)
class Fleet:
    """One run's engines by name; ``gpus`` by the engine that was put on each first."""

    events: Events = field(default_factory=Events)
    engines: dict[str, LLMEngine | EncoderEngine] = field(default_factory=dict)
    instances: list[ExecutionInstance] = field(default_factory=list)
    gpus: list[GPU] = field(default_factory=list)

    def add_llm(self, limits: EngineLimits, slots: int = 0) -> None:
        """An LLM engine on a GPU of its own."""
        engine = LLMEngine(self.events, limits)
        self._add(f"llm-{len(self.gpus) + 1}", engine, slots)
        self.gpus.append(GPU(engine))

    def add_mixed(self, limits: EngineLimits) -> None:
        """An LLM engine and an embedding engine that share a GPU."""
        llm, encoder = LLMEngine(self.events, limits), EncoderEngine(self.events)
        number = len(self.gpus) + 1
        self._add(f"llm-{number}", llm)
        self._add(f"embedding-{number}", encoder)
        self.gpus.append(GPU(llm, encoder))

    def _add(self, name: str, engine: LLMEngine | EncoderEngine, slots: int = 0) -> None:
        encodes = isinstance(engine, EncoderEngine)
        self.engines[name] = engine
        self.instances.append(
            ExecutionInstance(
                name,
                "127.0.0.1",
                0,
                instance_type=ExecutionInstanceType.EMBEDDING if encodes else ExecutionInstanceType.GENERAL,
                models=(EMBEDDING_MODEL if encodes else LLM_MODEL,),
                routes=frozenset({EMBEDDINGS if encodes else CHAT}),
                max_concurrent_requests=slots,
                state=EngineState.READY,
            )
        )


def llm_fleet(instances: int, limits: EngineLimits | None = None, slots: int = 0) -> Fleet:
    """So many equal LLM engines, a GPU each; ``slots`` 0 leaves their number of requests open."""
    fleet = Fleet()
    for _ in range(instances):
        fleet.add_llm(limits or EngineLimits(), slots)
    return fleet


def mixed_fleet(instances: int, limits: EngineLimits | None = None) -> Fleet:
    """So many GPUs, with an LLM engine and an embedding engine each."""
    fleet = Fleet()
    for _ in range(instances):
        fleet.add_mixed(limits or EngineLimits())
    return fleet
