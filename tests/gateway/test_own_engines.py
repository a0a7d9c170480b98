"""Engines that the gateway starts itself: it is at work only when they can serve."""

from __future__ import annotations

import asyncio

import pytest

from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.support.rogue import RogueEngine, ok


@pytest.mark.parametrize("name", ["own", None], ids=["named", "by its address"])
def test_an_engine_of_its_own_is_waited_for_whether_or_not_it_has_a_name(name: str | None) -> None:
    async def states(engine: RogueEngine) -> list[EngineState]:
        running = RunningGateway(Settings(), extra_instances=(InstanceSettings(url=engine.url, name=name),))
        asyncio.get_running_loop().call_later(0.3, setattr, engine, "loading", False)
        async with running.working():
            return [each.instance.state for each in running.gateway.engines.values()]

    with RogueEngine(ok()) as engine:
        engine.loading = True
        assert asyncio.run(states(engine)) == [EngineState.READY]
