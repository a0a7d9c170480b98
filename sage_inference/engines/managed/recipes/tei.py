"""Text Embeddings Inference: ``text-embeddings-router``."""

from __future__ import annotations

from sage_inference.engines.managed.ports import free_port
from sage_inference.engines.managed.recipes.base import Command, Start, refuse_owned

OWNED = {
    "--model-id": "model",
    "--revision": "revision",
    "--hostname": None,
    "--port": "managed.ports",
    "-p": "managed.ports",
    "--prometheus-port": None,
    "--uds-path": None,
    "--api-key": None,
    "--hf-token": "managed.hf_token",
    "--hf-api-token": "managed.hf_token",
    "--served-model-name": "served_names",
    "--dtype": "dtype",
}


def command(start: Start) -> Command:
    """The command of TEI. Raises ``LaunchError``."""
    engine = start.engine
    refuse_owned(engine.args, OWNED)
    port, url, key = start.address()
    # Two of them would share the default port of their metrics, and the socket of their backends.
    metrics = free_port(start.ports, start.taken | {port})
    argv = [
        *start.program.argv,
        *("--model-id", start.model, "--served-model-name", start.served_names[0]),
        *("--hostname", start.host, "--port", str(port), "--prometheus-port", str(metrics)),
        *("--uds-path", str(start.directory / "backend")),
    ]
    argv += ["--revision", engine.revision] if engine.revision and not start.is_local else []
    argv += ["--dtype", engine.dtype] if engine.dtype else []
    # In the environment, because TEI prints its arguments.
    return Command((*argv, *engine.args), url, {"API_KEY": key} if key else {}, key)
