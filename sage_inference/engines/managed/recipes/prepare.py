"""Turns an engine's settings into the command that starts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed.gpus import Gpu
from sage_inference.engines.managed.recipes.base import EngineLaunch, NotInstalledError


def prepare(
    engine: ManagedEngineSettings,
    managed: ManagedSettings,
    *,
    directory: Path,
    gpus: Sequence[Gpu],
    environ: Mapping[str, str],
    neighbours: Sequence[ManagedEngineSettings] = (),
) -> EngineLaunch:
    """The command of one start. Finds programs, reads the model's files, and picks a socket or a free port.

    ``directory`` is the engine's own and private. ``neighbours`` are the other engines of the gateway.
    Blocks for up to some seconds. Raises ``NotInstalledError`` or ``LaunchError``.
    """
    raise NotInstalledError(f"no engine is installed that serves {engine.model}", "pip install vllm")
