"""Simulated engines that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="module")
def vllm() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as engine:
        yield engine


@pytest.fixture(scope="module")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", "--speed", "instant") as engine:
        yield engine
