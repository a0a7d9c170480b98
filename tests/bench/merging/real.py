"""Real engines of embeddings, with their own count of requests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.real import recipes
from tests.real.engine import RealEngine
from tests.real.install import ensure_infinity, ensure_vllm
from tests.real.recipes import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "real-vllm": lambda: recipes.embedding(ensure_vllm()),
    "real-infinity": lambda: recipes.infinity(ensure_infinity()),
}
_COUNTED = re.compile(r'^http_requests_total\{[^}]*handler="/v1/embeddings"[^}]*\} ([\d.e+]+)$', re.M)


@contextmanager
def real_engine(name: str) -> Iterator[tuple[str, str, Callable[[], int]]]:
    """Its address, its model, and how many embedding calls it has had. It is installed first, if need be."""
    recipe = RECIPES[name]()
    with tempfile.TemporaryDirectory() as logs:
        engine = RealEngine(recipe, Path(logs) / "engine.log")
        try:
            engine.start()
            engine.wait_ready()

            def calls() -> int:
                page = httpx.get(f"{engine.url}/metrics", trust_env=False, verify=False, timeout=30).text
                return int(sum(float(found) for found in _COUNTED.findall(page)))

            yield engine.url, engine.model, calls
        finally:
            engine.close_input()
            engine.stop()
