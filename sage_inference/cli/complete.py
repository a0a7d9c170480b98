"""Completion: the shells' scripts, and the values they offer. Errors are silent because a shell is waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sage_inference.daemon.pidfile import PidInfo

PROGRAMS = ("sage", "sage-inference")
FORMATS = ("table", "json", "yaml")
WAITS = ("none", "gateway", "engines")
SHELLS = ("bash", "zsh", "fish")


def variable(program: str) -> str:
    return f"_{program}_COMPLETE".replace("-", "_").upper()


def asked(program: str) -> bool:
    """Whether a shell runs the program to complete a word."""
    return variable(program) in os.environ


def prepare(program: str) -> None:
    """Register the shells with Typer if one asks for a completion."""
    if asked(program):
        from typer import _completion_classes as shells_of_typer

        # Typer's function imports Rich (140 ms per key press) to strip markup, and our help has none.
        vars(shells_of_typer)["_sanitize_help_text"] = str
        shells_of_typer.completion_init()


def script(shell: str, program: str) -> str:
    """The completion script, which the shell reads once."""
    from typer._completion_shared import get_completion_script

    text = get_completion_script(prog_name=program, complete_var=variable(program), shell=shell)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def config_keys(incomplete: str) -> list[str]:
    from sage_inference.config.schema import walk

    return [
        path
        for path, key in walk()
        if path.startswith(incomplete) and not key.shape.section and ".NAME." not in path
    ]


def _of(name: str) -> Callable[[str], list[str]]:
    def offer(incomplete: str) -> list[str]:
        from sage_inference.config import settings

        return [word for word in getattr(settings, name) if word.startswith(incomplete)]

    return offer


policies = _of("POLICIES")
log_levels = _of("LOG_LEVELS")
priorities = _of("PRIORITIES")


def key_limits(incomplete: str) -> list[str]:
    from sage_inference.config.schema import keys
    from sage_inference.config.settings import KeyLimitSettings

    names = [name for name, key in keys(KeyLimitSettings).items() if key.shape.is_scalar]
    return [f"{name}=" for name in names if name.startswith(incomplete)]


def key_names(incomplete: str) -> list[str]:
    """The names of the configuration's keys, and the ids of those that share a name."""
    from sage_inference.config.key_entries import entries_of
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths

    entries = entries_of(load(Paths.resolve().config_file).api_keys)
    names = [entry.name for entry in entries]
    words = [entry.name if names.count(entry.name) == 1 else entry.id or "" for entry in entries]
    return [word for word in words if word and word.startswith(incomplete)]


def engines(incomplete: str) -> list[str]:
    """The managed engines: those of the running gateway, otherwise those of the configuration."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.managed import names

    return [name for name in names(Paths.resolve()) if name.startswith(incomplete)]


def _running() -> PidInfo | None:
    """The gateway if it answers within half a second."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.control import inspect

    state = inspect(Paths.resolve(), timeout_s=0.5)
    return None if state.live is None else state.info


def _models(kind: str, incomplete: str) -> list[str]:
    """The models of the running gateway of that kind, or of none, and their aliases. Takes a second at most."""
    from sage_inference.daemon.models import models as listed
    from sage_inference.daemon.models import suits

    info = _running()
    found = [] if info is None else listed(info, timeout_s=0.5)["models"]
    fitting = [model for model in found if suits(model, kind) is not False]
    names = [name for model in fitting for name in (model["name"], *model["aliases"])]
    return [name for name in names if name.startswith(incomplete)]


def chat_models(incomplete: str) -> list[str]:
    return _models("chat", incomplete)


def chat_words(context: typer.Context, incomplete: str) -> list[str]:
    """Only the first word is a model."""
    return [] if context.params.get("words") else _models("chat", incomplete)


def embedding_models(incomplete: str) -> list[str]:
    return _models("embedding", incomplete)


def models(incomplete: str) -> list[str]:
    """The models of the running gateway, of any kind. Requests have their own names, not those of aliases."""
    from sage_inference.daemon.models import models as listed

    info = _running()
    found = [] if info is None else listed(info, timeout_s=0.5)["models"]
    return [model["name"] for model in found if model["name"].startswith(incomplete)]


def instances(incomplete: str) -> list[str]:
    """The instances of the running gateway."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.control import inspect

    live = inspect(Paths.resolve(), timeout_s=0.5).live or {}
    return [each["name"] for each in live.get("instances", ()) if each["name"].startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """The names of the configuration's keys."""
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths

    names = dict.fromkeys(key.name for key in load(Paths.resolve().config_file).api_keys)
    return [name for name in names if name.startswith(incomplete)]


def sampling_fields(incomplete: str) -> list[str]:
    from sage_inference.cli.chat.sampling import FIELDS

    return [f"{name}=" for name in FIELDS if name.startswith(incomplete)]


def formats(incomplete: str) -> list[str]:
    return [word for word in FORMATS if word.startswith(incomplete)]


def waits(incomplete: str) -> list[str]:
    return [word for word in WAITS if word.startswith(incomplete)]


def bench_kinds(incomplete: str) -> list[str]:
    from sage_inference.bench.mix import KINDS, MIXED

    return [word for word in (*KINDS, MIXED) if word.startswith(incomplete)]


def usage_groups(incomplete: str) -> list[str]:
    from sage_inference.usage.columns import BY

    return [word for word in BY if word.startswith(incomplete)]


def top_columns(incomplete: str) -> list[str]:
    from sage_inference.cli.top.tables import sortable

    return [word for word in sortable() if word.startswith(incomplete)]


def top_tables(incomplete: str) -> list[str]:
    from sage_inference.cli.top.tables import TABLES

    return [word for word in TABLES if word.startswith(incomplete)]


def monitoring_files(incomplete: str) -> list[str]:
    from sage_inference.monitoring import FILES

    return [word for word in FILES if word.startswith(incomplete)]


def shells(incomplete: str) -> list[str]:
    return [word for word in SHELLS if word.startswith(incomplete)]


def document_topics(incomplete: str) -> list[str]:
    from sage_inference.cli.documents import topics

    return [topic for topic in topics() if topic.startswith(incomplete)]


def config_values(context: typer.Context, incomplete: str) -> list[str]:
    """The choices of the key before this word, if the key has any."""
    from sage_inference.config.schema import locate

    given = context.params.get("key_option") or context.params.get("key")
    if not given:
        return []
    place = locate(str(given))
    words = ("true", "false") if place.shape.kind == "boolean" else place.key.choices or ()
    return [word for word in words if word.startswith(incomplete)]
