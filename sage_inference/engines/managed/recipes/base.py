"""Values that every recipe makes or takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.config.engine_rules import served_names_of
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.engines.managed.api_key import api_key_of
from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.ports import free_port
from sage_inference.netloc import origin

if TYPE_CHECKING:
    from sage_inference.engines.managed.model_files import ModelFacts, ModelKind
    from sage_inference.engines.managed.placement import GpuBudget
    from sage_inference.engines.managed.programs import Program


# Tokens of a text that an embedder's budget has room for, if it caches keys and values as a chat model does.
LONGEST_TEXT = 8192
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Listen:
    """The address of an engine that a gateway on another machine uses, and its key. None: it asks for no key."""

    host: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Start:
    """The facts of one start, from which a recipe makes a command.

    ``model`` is a name on the hub or an absolute path. ``ports`` and ``taken`` are those to choose from.
    ``shares_cpu``: other engines of ours compute on the CPU too. Without ``listen``, only this machine reaches it.
    """

    name: str
    engine: ManagedEngineSettings
    managed: ManagedSettings
    model: str
    is_local: bool
    facts: ModelFacts
    kind: ModelKind
    program: Program
    placement: GpuBudget
    directory: Path
    ports: range
    taken: frozenset[int] = frozenset()
    download: dict[str, Any] | None = None
    shares_cpu: bool = False
    listen: Listen | None = None

    @property
    def host(self) -> str:
        return self.listen.host if self.listen else _LOOPBACK

    def address(self) -> tuple[int, str, str | None]:
        """A free port, the URL there, and the key that other users need. Raises ``LaunchError``."""
        port = free_port(self.ports, self.taken)
        key = self.listen.api_key if self.listen else api_key_of(self.directory)
        return port, origin(self.host, port), key

    @property
    def served_names(self) -> tuple[str, ...]:
        return served_names_of(self.engine)

    @property
    def is_small(self) -> bool:
        return self.kind != "llm"


@dataclass(frozen=True, slots=True)
class Command:
    """A recipe's result."""

    argv: tuple[str, ...]
    url: str
    env: dict[str, str] = field(default_factory=dict, repr=False)
    api_key: str | None = field(default=None, repr=False)


def refuse_owned(args: Sequence[str], owned: Mapping[str, str | None]) -> None:
    """Raises ``LaunchError`` for an argument that we set ourselves. ``owned`` has the setting to use instead.

    vLLM takes ``_`` for ``-`` in a name, and any beginning of a name that stands for only one.
    """
    for arg in args:
        word = arg.partition("=")[0]
        if not word.startswith("-"):
            continue
        if " " in word.strip():
            first, _, rest = word.strip().partition(" ")
            raise LaunchError(f"args has {word!r} as one word", f"write two: {first}, {rest.strip()}")
        spelled = "--" + word[2:].replace("_", "-") if word.startswith("--") else word
        for flag, setting in owned.items():
            if spelled == flag or (len(spelled) > len("--xy") and flag.startswith(spelled)):
                raise LaunchError(
                    f"args has {word}, which is set by the gateway",
                    f"use the key {setting} instead" if setting else "remove it",
                )


# Settings that a recipe's program has no option for. A setting that does nothing would mislead.
_LACKS = {
    "tei": ("tensor_parallel", "quantization", "max_model_len", "trust_remote_code"),
    "infinity": ("tensor_parallel", "quantization", "max_model_len"),
    "llama_server": ("tensor_parallel", "quantization", "dtype", "trust_remote_code", "revision"),
    "command": (
        *("tensor_parallel", "quantization", "dtype", "max_model_len", "trust_remote_code", "revision"),
    ),
}
_ONE_GPU = ("tei", "infinity")
_ONE_NAME = ("tei", "infinity", "llama_server")


def refuse_unsupported(recipe: str, engine: ManagedEngineSettings) -> None:
    """Raises ``LaunchError`` for a setting that the program of ``recipe`` cannot have."""
    for key in _LACKS.get(recipe, ()):
        value = getattr(engine, key)
        if value > 1 if key == "tensor_parallel" else value:
            raise LaunchError(
                f"{key} is {value}, and engine {recipe} has no such option",
                f"remove {key}" if recipe != "command" else f"remove {key}, and write it into command",
            )
    for name in engine.served_names:
        if name.startswith("-"):
            raise LaunchError(
                f"served_names has {name}, which an engine would take for an option", "rename it"
            )
    if recipe in _ONE_GPU and len(engine.gpus) > 1:
        raise LaunchError(
            f"gpus lists {len(engine.gpus)} GPUs, and engine {recipe} uses one",
            "list one, or use engine: vllm",
        )
    if recipe in _ONE_NAME and len(engine.served_names) > 1:
        raise LaunchError(
            f"served_names has {len(engine.served_names)} names, and engine {recipe} takes one",
            "keep one, and write the others into aliases",
        )
