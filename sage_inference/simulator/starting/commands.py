"""The names of the engines' commands. Each has its own command line, and is loaded alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

_PACKAGE = "sage_inference.simulator.starting"
COMMANDS = {
    "vllm-serve": "vllm_serve",
    "tei-router": "tei_router",
    "infinity": "infinity",
    "llama-server": "llama_server",
}


def run(command: str, arguments: Sequence[str]) -> int:
    """Run until the engine ends, and return its exit status."""
    module = import_module(f"{_PACKAGE}.{COMMANDS[command]}")
    status: int = module.main(arguments)
    return status
