"""The pytest side of the real engines: one start of both a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.real import recipes
from tests.real.engine import RealEngine
from tests.real.install import CannotInstallError, ensure_vllm


@dataclass(frozen=True, slots=True)
class RealEngines:
    """Both serving; the tests that share them run in one worker, one after another."""

    chat: RealEngine
    embedding: RealEngine

    @property
    def both(self) -> tuple[RealEngine, RealEngine]:
        return (self.chat, self.embedding)


@pytest.fixture(scope="session")
def real_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngines]:
    try:
        installed = ensure_vllm()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)
    logs = tmp_path_factory.mktemp("real-engines")
    engines = RealEngines(
        RealEngine(recipes.chat(installed), logs / "chat.log"),
        RealEngine(recipes.embedding(installed), logs / "embedding.log"),
    )
    try:
        for engine in engines.both:
            engine.start()
        for engine in engines.both:
            engine.wait_ready()
        yield engines
    finally:
        for engine in engines.both:
            engine.close_input()
        for engine in engines.both:
            engine.stop()
