"""A real vLLM as the engine of embeddings, with its own count of requests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.real.engine import RealEngine, embedding_recipe
from tests.real.install import ensure_installed

_COUNTED = re.compile(r'^http_requests_total\{[^}]*handler="/v1/embeddings"[^}]*\} ([\d.e+]+)$', re.M)


@contextmanager
def real_engine() -> Iterator[tuple[str, str, Callable[[], int]]]:
    """Its address, its model, and how many embedding calls it has had."""
    installed = ensure_installed()
    with tempfile.TemporaryDirectory() as logs:
        engine = RealEngine(embedding_recipe(installed), installed, Path(logs) / "vllm.log")
        try:
            engine.start()
            engine.wait_ready()

            def calls() -> int:
                page = httpx.get(f"{engine.url}/metrics", trust_env=False).text
                return int(sum(float(found) for found in _COUNTED.findall(page)))

            yield engine.url, engine.model, calls
        finally:
            engine.close_input()
            engine.stop()
