"""Simulators shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="package")
def generate() -> Iterator[SimulatedEngine]:
    """As the recorded generate server was: a text model with 512 tokens of context; nothing takes time."""
    args = ("--model", "tiny-llama", "--max-model-len", "512", "--text-only", "--speed", "instant")
    with simulated_engine("vllm", *args) as engine:
        yield engine


@pytest.fixture(scope="package")
def pooling() -> Iterator[SimulatedEngine]:
    args = (
        "--runner",
        "pooling",
        "--model",
        "all-MiniLM-L6-v2",
        "--max-model-len",
        "256",
        "--speed",
        "instant",
    )
    with simulated_engine("vllm", *args) as engine:
        yield engine


@pytest.fixture(scope="package")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", "--model", "thenlper/gte-base", "--speed", "instant") as engine:
        yield engine


@pytest.fixture
def chat(generate: SimulatedEngine) -> Iterator[httpx.Client]:
    with generate.client() as client:
        yield client


@pytest.fixture
def embed(pooling: SimulatedEngine) -> Iterator[httpx.Client]:
    with pooling.client() as client:
        yield client


@pytest.fixture
def native(tei: SimulatedEngine) -> Iterator[httpx.Client]:
    with tei.client() as client:
        yield client
