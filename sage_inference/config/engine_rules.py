"""The names of managed engines, and the rules between their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.formats import check_engine_name
from sage_inference.config.secrets import Secret, SecretError
from sage_inference.config.settings import ManagedEngineSettings, Settings

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def name_of_engine(entry: ManagedEngineSettings) -> str:
    """The name of a managed engine: the configured name, otherwise the last part of its model in lower case."""
    if entry.name:
        return entry.name
    last = PurePath(entry.model).name.removesuffix(".gguf").lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).lstrip("-._")[:63] or "engine"


def served_names_of(entry: ManagedEngineSettings) -> tuple[str, ...]:
    """The model names that the engine answers to."""
    return entry.served_names or (entry.model,)


def check_engines(settings: Settings, names: Mapping[str, str], environ: Mapping[str, str] | None) -> None:
    """Raises ``ConfigError`` for the first broken rule. ``names`` are those of instances, with their places."""
    taken = dict(names)
    for at, engine in enumerate(settings.engines):
        here = f"engines[{at}]"
        _name(engine, here, taken)
        check_engine(engine, here)
        for name, value in engine.env.items():
            readable(f"{here}.env.{name}", value, environ)


def check_engine(engine: ManagedEngineSettings, here: str) -> None:
    """Raises ``ConfigError`` for the first broken rule between the keys of one engine. ``here`` is its place."""
    _gpus(engine, here)
    _command(engine, here)
    _environment(engine, here)


def _name(engine: ManagedEngineSettings, here: str, taken: dict[str, str]) -> None:
    name = name_of_engine(engine)
    try:
        check_engine_name(name)
    except Invalid as error:
        raise ConfigError(f"the name of {here} {error.problem}", key=f"{here}.name") from None
    # Some file systems take two names that differ in case as one.
    twin = taken.setdefault(name.lower(), here)
    if twin != here:
        raise ConfigError(
            f"{here} and {twin} are both named {name}",
            key=f"{here}.name",
            hint=f"give one of them another name, as {name}-2",
        )


def _gpus(engine: ManagedEngineSettings, here: str) -> None:
    words = {"auto", "cpu"} & set(engine.gpus)
    if (words and len(engine.gpus) > 1) or not engine.gpus:
        raise ConfigError(
            f"{here}.gpus takes auto, or cpu, or a list of GPUs", key=f"{here}.gpus", hint="as [0, 1]"
        )
    if len(set(engine.gpus)) < len(engine.gpus):
        raise ConfigError(f"{here}.gpus lists a GPU twice", key=f"{here}.gpus", hint="list each once")
    known = 0 if engine.gpus == ("auto",) else 1 if engine.gpus == ("cpu",) else len(engine.gpus)
    if known and engine.tensor_parallel > known:
        raise ConfigError(
            f"{here}.tensor_parallel is {engine.tensor_parallel}, and gpus has {known}",
            key=f"{here}.tensor_parallel",
            hint="list as many GPUs, or leave tensor_parallel out",
        )


def _command(engine: ManagedEngineSettings, here: str) -> None:
    if engine.engine == "command" and not engine.command:
        raise ConfigError(
            f"{here}.command is missing, and engine is command",
            key=f"{here}.command",
            hint='write the command line as a list: [my-server, --port, "{port}"]',
        )
    if engine.command and engine.engine not in ("auto", "command"):
        raise ConfigError(
            f"{here}.command is set, and engine is {engine.engine}",
            key=f"{here}.command",
            hint=f"write engine: command, or set managed.{engine.engine} to another program",
        )


def _environment(engine: ManagedEngineSettings, here: str) -> None:
    for name in engine.env:
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(
                f"{here}.env: {name[:60]!a} is no name of a variable",
                key=f"{here}.env",
                hint="letters, digits and _, not beginning with a digit",
            )


def readable(here: str, secret: Secret, environ: Mapping[str, str] | None) -> str:
    """The value of a secret. Raises ``ConfigError`` if its source cannot be read."""
    try:
        return secret.reveal(environ)
    except (SecretError, ValueError, RuntimeError) as error:
        # ValueError: a NUL in a path. RuntimeError: a home directory that is not known.
        hint = _ENVIRONMENT if secret.source.startswith("env:") else None
        raise ConfigError(f"{here}: {error}", key=here, hint=hint) from None


_ENVIRONMENT = (
    "a running gateway has the environment it was started in; sage inference restart gives it this shell's"
)
