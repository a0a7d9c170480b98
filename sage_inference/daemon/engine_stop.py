"""Ends the gateway together with its engines, or leaves the engines to their keepers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sage_inference.config.paths import Paths
from sage_inference.daemon import control, managed
from sage_inference.daemon.control import DaemonState, Found, Progress, StopOutcome
from sage_inference.keeper import files


@dataclass(frozen=True, slots=True)
class Stopped:
    """``ended`` and ``kept`` are names of engines; ``left`` has those that could not be ended, and the reasons."""

    gateway: StopOutcome
    ended: list[str]
    kept: list[str]
    left: dict[str, str] = field(default_factory=dict)


def stop(
    paths: Paths,
    *,
    force: bool = False,
    keep_engines: bool = False,
    on_found: Found | None = None,
    on_progress: Progress | None = None,
) -> Stopped:
    """As ``control.stop``. Engines of a gateway that is dead, or that had to be killed, are ended by their keepers."""
    alive: list[str] = []

    def found(state: DaemonState) -> None:
        alive.extend(_alive(managed.engines_of(state.live or {})))
        if keep_engines and state.live is not None and state.info is not None:
            managed.keep_engines(state.info)
        if on_found is not None:
            on_found(state)

    outcome = control.stop(paths, force=force, on_found=found, on_progress=on_progress)
    if keep_engines:
        return Stopped(outcome, [], _alive(managed.kept(paths.state_dir)))
    left: dict[str, str] = {}
    ended = _end_all(paths.state_dir, left)
    alive = [name for name in alive if name not in left]
    return Stopped(outcome, [*alive, *(name for name in ended if name not in alive)], [], left)


def _end_all(state_dir: Path, left: dict[str, str]) -> list[str]:
    """End the engines that still have a keeper. Returns their names; ``left`` gets the others."""
    if not (state_dir / files.FOLDER).is_dir():
        return []
    from sage_inference.keeper import client

    return client.stop_all(state_dir, left=left.__setitem__)


def _alive(engines: list[managed.Document]) -> list[str]:
    return [str(engine["name"]) for engine in engines if engine.get("pid")]
