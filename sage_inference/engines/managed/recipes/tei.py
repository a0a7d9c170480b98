"""Text Embeddings Inference: ``text-embeddings-router``."""

from __future__ import annotations

from sage_inference.engines.managed.api_key import api_key_of
from sage_inference.engines.managed.ports import free_port
from sage_inference.engines.managed.recipes.base import Command, Start, http_url, refuse_owned

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
    port = free_port(start.ports, start.taken)
    # Two of them would share the default port of their metrics, and the socket of their backends.
    metrics = free_port(start.ports, start.taken | {port})
    key = api_key_of(start.directory)
    argv = [
        *start.program.argv,
        *("--model-id", start.model, "--served-model-name", start.served_names[0]),
        *("--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)),
        *("--uds-path", str(start.directory / "backend")),
    ]
    argv += ["--revision", engine.revision] if engine.revision and not start.is_local else []
    argv += ["--dtype", engine.dtype] if engine.dtype else []
    # In the environment, because TEI prints its arguments.
    return Command((*argv, *engine.args), http_url(port), {"API_KEY": key}, key)
