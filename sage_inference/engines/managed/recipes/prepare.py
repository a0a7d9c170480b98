"""Turns an engine's settings into the command that starts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_inference.config.engine_rules import name_of_engine, served_names_of
from sage_inference.config.settings import ManagedEngineSettings, ManagedSettings
from sage_inference.config.sizes import port_range
from sage_inference.engines.managed import environment, programs
from sage_inference.engines.managed.gpus import Gpu
from sage_inference.engines.managed.launch import EngineLaunch, LaunchError, NotInstalledError
from sage_inference.engines.managed.model_files import ModelFacts
from sage_inference.engines.managed.models import Model, on_this_machine, resolve
from sage_inference.engines.managed.placement import GpuBudget, Wanted, check_room, place, visible
from sage_inference.engines.managed.ports import port_of
from sage_inference.engines.managed.programs import Program
from sage_inference.engines.managed.recipes import command, infinity, llama_server, tei, vllm
from sage_inference.engines.managed.recipes.base import (
    LONGEST_TEXT,
    Command,
    Listen,
    Start,
    refuse_unsupported,
)
from sage_inference.engines.managed.spec import hash_of

RECIPES: dict[str, Callable[[Start], Command]] = {
    "vllm": vllm.command,
    "tei": tei.command,
    "infinity": infinity.command,
    "llama_server": llama_server.command,
    "command": command.command,
}
PROGRAMS = {
    "vllm": programs.VLLM,
    "tei": programs.TEI,
    "infinity": programs.INFINITY,
    "llama_server": programs.LLAMA_SERVER,
}
# Of these we do not know how much of the weights they keep on a GPU.
_SIZE_THEMSELVES = ("command", "llama_server")
_OFFLOADS = {"--cpu-offload-gb", "--kv-offloading-size"}
_FOR_VECTORS = ("tei", "vllm", "infinity")


def prepare(
    engine: ManagedEngineSettings,
    managed: ManagedSettings,
    *,
    directory: Path,
    gpus: Sequence[Gpu],
    environ: Mapping[str, str],
    engines: Sequence[ManagedEngineSettings] = (),
    held: Mapping[str, Sequence[int]] | None = None,
    taken: frozenset[int] = frozenset(),
    change: Mapping[str, Any] | None = None,
    listen: Listen | None = None,
) -> EngineLaunch:
    """The command of one start. Finds the program, reads the model's files, and picks a socket or a free port.

    ``directory`` is the engine's own and private. ``engines`` are all managed engines, which share the GPUs; ``held``
    has the indices of the GPUs that those already have which run or start. ``taken`` are ports to avoid. ``change``
    are settings for this start alone, such as those of a failure. ``listen`` is the address for other machines.
    Blocks for up to some seconds.
    Raises ``NotInstalledError`` or ``LaunchError``.
    """
    name = name_of_engine(engine)
    declared, engine = engine, replace(engine, **(change or {}))
    hub_env = environment.inherited(environ, None) | environment.for_the_hub(
        managed, environ, downloads=False
    )
    hub_env |= environment.own(engine, environ)
    model = resolve(
        engine,
        hub_env,
        offline=environment.is_offline(managed, hub_env),
        token=environment.hub_token(managed, environ),
    )
    recipe, program = _choose(engine, managed, model, environ)
    refuse_unsupported(recipe, engine)
    mine = _wanted(name, engine, recipe, model)
    others = [
        _wanted_of(each, managed, hub_env, held or {}) for each in engines if name_of_engine(each) != name
    ]
    if program.for_cpu and engine.gpus == ("auto",):
        placement = GpuBudget(is_cpu=True)
    else:
        shown = visible(gpus, environ) if engine.gpus == ("auto",) else gpus
        placement = place(name, _in_order(engines, mine, others), shown)
    if recipe not in _SIZE_THEMSELVES or engine.memory:
        placement = check_room(mine, placement)
    start = Start(
        name=name,
        engine=engine,
        managed=managed,
        model=model.name,
        is_local=model.is_local,
        facts=model.facts,
        kind=model.kind,
        program=program,
        placement=placement,
        directory=directory,
        ports=port_range(managed.ports),
        taken=taken,
        download=model.download,
        shares_cpu=bool(others),
        listen=listen,
    )
    return _launch(
        start, RECIPES[recipe](start), recipe, environ, hash_of(declared, managed, program, environ)
    )


def spec_hash(
    engine: ManagedEngineSettings, managed: ManagedSettings, recipe: str, environ: Mapping[str, str]
) -> str:
    """The hash that a start by ``recipe`` would have now. It differs from that of a running engine if it is outdated."""
    try:
        program = _program(recipe, engine, managed, environ)
    except LaunchError:
        program = Program(())
    return hash_of(engine, managed, program, environ)


def _choose(
    engine: ManagedEngineSettings, managed: ManagedSettings, model: Model, environ: Mapping[str, str]
) -> tuple[str, Program]:
    """The recipe and its program. ``auto`` takes the first that is installed of those that serve the model."""
    if engine.engine != "auto" or engine.command:
        recipe = "command" if engine.command else engine.engine
        return recipe, _program(recipe, engine, managed, environ)
    candidates = (
        ("llama_server",) if model.facts.is_gguf else ("vllm",) if model.kind == "llm" else _FOR_VECTORS
    )
    for recipe in candidates:
        if recipe == "tei" and model.facts.has_fast_tokenizer is False:
            continue
        try:
            return recipe, _program(recipe, engine, managed, environ)
        except NotInstalledError as error:
            missing = error
    if len(candidates) == 1:
        raise missing
    raise NotInstalledError(
        f"no engine is installed that serves {model.kind}s: "
        + ", ".join(PROGRAMS[each].executable for each in candidates),
        "pip install vllm, or set managed.vllm, managed.tei or managed.infinity",
    )


def _program(
    recipe: str, engine: ManagedEngineSettings, managed: ManagedSettings, environ: Mapping[str, str]
) -> Program:
    if recipe != "command":
        return programs.find(PROGRAMS[recipe], getattr(managed, recipe), environ)
    return programs.find_command(engine.command[0], environ)


def _wanted(
    name: str, engine: ManagedEngineSettings, recipe: str, model: Model, held: Sequence[int] = ()
) -> Wanted:
    facts = model.facts
    is_small = model.kind != "llm" or recipe in ("tei", "infinity")
    # An embedder that was made from a chat model caches keys and values as that does.
    longest = engine.max_model_len or min(facts.max_tokens or LONGEST_TEXT, LONGEST_TEXT)
    cache = facts.cache_per_token * longest if is_small else 0
    weights = None if _OFFLOADS & set(engine.args) else facts.loaded(engine.dtype, engine.quantization)
    return Wanted(name, engine, is_small, weights, facts.heads, tuple(held), cache)


def _wanted_of(
    engine: ManagedEngineSettings,
    managed: ManagedSettings,
    env: Mapping[str, str],
    held: Mapping[str, Sequence[int]],
) -> Wanted:
    """Another engine's wish, by what this machine has of its model."""
    name = name_of_engine(engine)
    try:
        model = on_this_machine(engine, env)
    except LaunchError:
        model = None
    if model is None:
        kind = engine.kind if engine.kind in ("embedding", "reranker") else "llm"
        model = Model(engine.model, False, ModelFacts(), kind)  # type: ignore[arg-type]
    return _wanted(name, engine, engine.engine, model, held.get(name, ()))


def _in_order(
    engines: Sequence[ManagedEngineSettings], mine: Wanted, others: Sequence[Wanted]
) -> list[Wanted]:
    """All wishes in the order of the configuration, which decides the choice of GPUs."""
    by_name = {each.name: each for each in (*others, mine)}
    ordered = [by_name[name] for name in map(name_of_engine, engines)]
    return ordered if mine in ordered else [*ordered, mine]


def _launch(start: Start, made: Command, recipe: str, environ: Mapping[str, str], spec: str) -> EngineLaunch:
    env = environment.inherited(environ, start.program.folder)
    env |= environment.for_the_hub(start.managed, environ, downloads=not start.is_local)
    env |= _gpu_variables(start, environ) | made.env | environment.own(start.engine, environ)
    secrets = tuple(dict.fromkeys(environment.secrets_in(start.engine, env)))
    words = command.words_of(start, port_of(made.url) or 0)
    about = {
        "model": start.engine.model,
        "served_names": list(served_names_of(start.engine)),
        "engine": recipe,
        "kind": start.kind,
        "url": made.url,
        "gpus": list(start.placement.indices),
        "gpu_uuids": [gpu.uuid for gpu in start.placement.gpus],
        "memory_bytes": start.placement.budget or None,
        "revision": start.facts.commit or start.engine.revision,
        "version": start.program.version,
        "argv": [environment.masked(arg, secrets) for arg in made.argv],
        "env": sorted(env),
        "download": start.download,
    }
    return EngineLaunch(
        argv=made.argv,
        env=env,
        url=made.url,
        api_key=made.api_key,
        spec_hash=spec,
        secrets=secrets,
        about=about,
        recipe=recipe,
        version=start.program.version,
        stop_command=tuple(command.filled(start.engine.stop_command, words)),
    )


def _gpu_variables(start: Start, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that show an engine its GPUs alone, counted in the order in which NVML counts them."""
    if start.placement.gpus:
        # Indices: older versions of vLLM fail on a UUID.
        shown = ",".join(str(index) for index in start.placement.indices)
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}
    if start.placement.is_cpu:
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {
        name: environ[name] for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if name in environ
    }
