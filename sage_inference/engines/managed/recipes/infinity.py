"""infinity: ``infinity_emb v2``."""

from __future__ import annotations

from sage_inference.engines.managed.recipes.base import Command, Start, refuse_owned

OWNED = {
    "--model-id": "model",
    "--revision": "revision",
    "--host": None,
    "--port": "managed.ports",
    "--url-prefix": None,
    "--api-key": None,
    "--served-model-name": "served_names",
    "--device": "gpus",
    "--dtype": "dtype",
    "--trust-remote-code": "trust_remote_code",
    "--no-trust-remote-code": "trust_remote_code",
}


def command(start: Start) -> Command:
    """The command of infinity. Raises ``LaunchError``."""
    engine = start.engine
    refuse_owned(engine.args, OWNED)
    port, url, key = start.address()
    argv = [
        *start.program.argv,
        *("v2", "--model-id", start.model, "--served-model-name", start.served_names[0]),
        *("--host", start.host, "--port", str(port), "--url-prefix", "/v1"),
        *("--engine", "torch", "--device", _device(start)),
        # BetterTransformer needs a package that infinity does not bring. Remote code is on by default.
        "--no-bettertransformer",
        "--trust-remote-code" if engine.trust_remote_code else "--no-trust-remote-code",
    ]
    argv += ["--revision", engine.revision] if engine.revision and not start.is_local else []
    argv += ["--dtype", engine.dtype] if engine.dtype else []
    # On a CPU its measurement of batches takes a minute and changes nothing.
    argv += [] if start.placement.gpus else ["--no-model-warmup"]
    # Its log wraps lines at the width of a terminal, which is 80 for a file.
    env = {"COLUMNS": "250"} | ({"INFINITY_API_KEY": key} if key else {})
    return Command((*argv, *engine.args), url, env, key)


def _device(start: Start) -> str:
    if start.placement.gpus:
        return "cuda"
    return "cpu" if start.placement.is_cpu else "auto"
