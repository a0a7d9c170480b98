"""The part of a run that concerns engines: the models that its options name, and which gateway gives the orders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings, Settings
from sage_inference.interpreter import command

_SIMULATORS = {
    "vllm": "vllm-serve",
    "tei": "tei-router",
    "infinity": "infinity",
    "llama_server": "llama-server",
}
_BY_KIND = {"llm": "vllm", "embedding": "tei"}


@dataclass(frozen=True, slots=True)
class RunModel:
    """A model that the options of ``start`` name. ``kind``: llm or embedding."""

    kind: str
    model: str


@dataclass(frozen=True, slots=True)
class EngineRun:
    """``passive``: until it serves, the gateway that it relieves gives the orders. ``simulates``: engines are simulated."""

    state_dir: Path
    models: tuple[RunModel, ...] = ()
    simulates: bool = False
    passive: bool = False

    def applied(self, settings: Settings) -> Settings:
        """The settings with the programs that this run uses."""
        return replace(settings, managed=_simulated(settings.managed)) if self.simulates else settings

    def entry_for(self, wanted: RunModel, model: str) -> ManagedEngineSettings:
        engine = _BY_KIND[wanted.kind] if self.simulates else "auto"
        return ManagedEngineSettings(model=model, kind=wanted.kind, engine=engine)

    @property
    def kinds_named(self) -> set[str]:
        """The engines that a plain ``--simulate`` would start, and that this run manages instead."""
        return {_BY_KIND[each.kind] for each in self.models} if self.simulates else set()


def _simulated(managed: ManagedSettings) -> ManagedSettings:
    words = {
        field: tuple(command("sage_inference.simulator", program)) for field, program in _SIMULATORS.items()
    }
    return replace(managed, offline=True, **words)  # type: ignore[arg-type]


def models_of(pairs: Iterable[tuple[str, str | None, Iterable[str]]]) -> tuple[RunModel, ...]:
    """The models of ``(kind, model, backends)`` for which no backend of that kind was given."""
    return tuple(RunModel(kind, model) for kind, model, backends in pairs if model and not list(backends))
