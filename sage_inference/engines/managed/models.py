"""Finds a model: a directory, a file, a downloaded model, or one on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_inference.config.paths import expanded
from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed import hub
from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.model_files import (
    ModelFacts,
    ModelKind,
    cache_folder,
    hub_cache_of,
    in_cache,
    of_directory,
)

# llama-server takes a quantization after the name.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(:[\w.-]{1,40})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Model:
    """``name`` is an absolute path, or a name on the hub. ``kind`` is the configured kind, or that of its files.

    ``download`` describes the files that an engine will download. ``Download.of`` reads it.
    """

    name: str
    is_local: bool
    facts: ModelFacts
    kind: ModelKind
    download: dict[str, Any] | None = None


def resolve(
    engine: ManagedEngineSettings, env: Mapping[str, str], *, offline: bool, token: str | None
) -> Model:
    """The model of ``engine``; asks the hub if it is not on this machine. ``env`` is that of the engine.

    Raises ``LaunchError`` if there is no such model. A hub that cannot be reached is no error: the engine may know more.
    """
    found = on_this_machine(engine, env)
    if found is not None and (found.is_local or found.facts.has_all_weights):
        return found
    cached = found.facts if found else ModelFacts()
    if offline:
        return _model(engine, engine.model, False, cached)
    try:
        known = hub.ask(engine.model.partition(":")[0], engine.revision, env, token)
    except hub.NoSuchModelError as error:
        raise _unknown(engine, error, token) from None
    except hub.GatedModelError as error:
        raise LaunchError(
            f"{engine.model} needs an accepted license and a token",
            f"accept it at {error.page}, and set managed.hf_token",
        ) from None
    except hub.HubError:
        known = hub.HubModel(cached)
    download = {"folder": str(cache_folder(engine.model, hub_cache_of(env))), "files": dict(known.blobs)}
    return replace(_model(engine, engine.model, False, known.facts), download=download)


def _check_name(engine: ManagedEngineSettings) -> None:
    """Raises ``LaunchError`` unless the model can be a name on the hub.

    A word that begins with ``-`` would be an option of the engine, and this one may come from a caller of /admin.
    """
    if not _HUB_NAME.fullmatch(engine.model):
        raise LaunchError(
            f"there is no directory {engine.model}, and models on the hub are named ORGANIZATION/NAME",
            "write the whole name, or the path of a directory",
        )


def on_this_machine(engine: ManagedEngineSettings, env: Mapping[str, str]) -> Model | None:
    """The model if its files are on this machine. Raises ``LaunchError`` for a path that has no model."""
    path = _path(engine.model)
    if engine.engine == "command" or engine.command:
        facts = of_directory(path) if path is not None and path.is_dir() else ModelFacts()
        return _model(engine, engine.model, path is not None, facts)
    if path is not None:
        return _model(engine, str(path), True, _local_facts(path))
    _check_name(engine)
    snapshot = in_cache(engine.model, engine.revision, hub_cache_of(env))
    if snapshot is None:
        return None
    return _model(engine, engine.model, False, of_directory(snapshot, snapshot.name))


def _path(model: str) -> Path | None:
    """The absolute path that ``model`` is. None for a name on the hub."""
    looks_like_path = model.startswith(("/", "./", "../", "~")) or model in (".", "..")
    try:
        path = expanded(model)
        if looks_like_path or path.exists():
            return Path(os.path.normpath(path.absolute()))
    except OSError as error:
        if looks_like_path:
            raise LaunchError(f"model {model} cannot be used: {error.strerror}") from None
    return None


def _local_facts(path: Path) -> ModelFacts:
    if path.is_file():
        if path.suffix == ".gguf":
            return ModelFacts("llm", weights=path.stat().st_size, is_gguf=True)
        raise LaunchError(
            f"model {path} is a file, and only .gguf files can be served",
            "name the directory with config.json",
        )
    if not path.is_dir():
        raise LaunchError(f"there is no directory {path}", _near_directory(path))
    facts = of_directory(path)
    if not facts.is_gguf and not (path / "config.json").is_file():
        raise LaunchError(f"{path} has no config.json, so it is no model's directory", _near_model(path))
    return facts


def _near_directory(path: Path) -> str:
    import difflib

    try:
        names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        return "check the path"
    near = difflib.get_close_matches(path.name, names, n=1)
    return (
        f"did you mean {path.parent / near[0]}?"
        if near
        else f"directories there: {len(names)}, in {path.parent}"
    )


def _near_model(path: Path) -> str:
    """A hint at the model's directory within the hub's layout, or within a directory of models."""
    try:
        found = sorted(path.glob("snapshots/*/config.json")) or sorted(path.glob("*/config.json"))
    except OSError:
        found = []
    return (
        f"did you mean {found[0].parent}?"
        if found
        else "name the directory that holds config.json and the weights"
    )


def _model(engine: ManagedEngineSettings, name: str, is_local: bool, facts: ModelFacts) -> Model:
    kind: ModelKind = facts.kind or "llm"
    if engine.kind in ("llm", "embedding", "reranker"):
        kind = engine.kind  # type: ignore[assignment]
    return Model(name, is_local, facts, kind)


def _unknown(engine: ManagedEngineSettings, error: hub.NoSuchModelError, token: str | None) -> LaunchError:
    revision = f" at revision {engine.revision}" if engine.revision else ""
    hints = [f"did you mean {' or '.join(error.near)}?"] if error.near else []
    hints += ["set managed.hf_token if it is private"] if not token else []
    return LaunchError(
        f"the hub has no model {engine.model}{revision}, or does not show it to us",
        "; ".join(hints) or "check the name, and the rights of managed.hf_token",
    )
