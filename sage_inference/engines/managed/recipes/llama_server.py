"""llama.cpp: ``llama-server``."""

from __future__ import annotations

from pathlib import Path

from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.recipes.base import Command, Start, refuse_owned

OWNED = {
    "--model": "model",
    "-m": "model",
    "-hf": "model",
    "--hf-repo": "model",
    "--alias": "served_names",
    "-a": "served_names",
    "--host": None,
    "--port": "managed.ports",
    "--api-key": None,
    "--ctx-size": "max_model_len",
    "-c": "max_model_len",
    "--embeddings": "kind",
    "--reranking": "kind",
}
_ALL_LAYERS = "999"


def command(start: Start) -> Command:
    """The command of llama-server. Raises ``LaunchError``."""
    engine = start.engine
    refuse_owned(engine.args, OWNED)
    model = ("-m", _file(Path(start.model))) if start.is_local else ("-hf", start.model)
    port, url, key = start.address()
    argv = [
        *start.program.argv,
        *model,
        *("--alias", start.served_names[0], "--host", start.host, "--port", str(port)),
        *{"llm": (), "embedding": ("--embeddings",), "reranker": ("--reranking",)}[start.kind],
    ]
    argv += ["-c", str(engine.max_model_len)] if engine.max_model_len else []
    if start.placement.gpus:
        argv += ["-ngl", _ALL_LAYERS]
    elif start.placement.is_cpu:
        argv += ["-ngl", "0"]
    return Command((*argv, *engine.args), url, {"LLAMA_API_KEY": key} if key else {}, key)


def _file(path: Path) -> str:
    """The file with the weights: ``path``, or the only one in it. A model in parts is named by the first."""
    if path.is_file():
        return str(path)
    found = sorted(each for each in path.glob("*.gguf") if "mmproj" not in each.name)
    first = [each for each in found if "-of-" not in each.name or "-00001-of-" in each.name]
    if len(first) == 1:
        return str(first[0])
    raise LaunchError(
        f"{path} has {len(first)} models in .gguf files, and llama-server takes one",
        "set model to one of the files",
    )
