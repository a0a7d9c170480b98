"""Engines that the client tests share, and clients of both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.client.faces import KINDS, Clients


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    with asyncio.Runner() as runner:
        made = Clients(request.param, runner)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_person_at_the_keyboard(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("SAGE_", "DASHSCOPE_")) and name != "SAGE_TEST_ENGINES":
            monkeypatch.delenv(name)
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path_factory.mktemp("home")))
