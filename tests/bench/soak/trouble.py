"""Troubles of a run: engines are killed, hang, drain and come back, and the configuration is reloaded."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from typing import Any

from tests.bench.outage.engines import Engines, How
from tests.bench.soak.world import World
from tests.support.gateway import Gateway

_POLL_S = 0.1
_BACK_S = 30.0  # from its return until the gateway must call an engine ready


async def outages(world: World, rng: random.Random, gateway: Gateway, engines: Engines) -> None:
    """Stop one engine of ``engines`` after the other and bring it back. Never two are away at a time."""
    while not world.over.is_set():
        await world.pause(rng.uniform(2, 5))
        if world.over.is_set():
            return
        name, how = rng.choice(list(engines.by_name)), rng.choice(list(How))
        began = time.monotonic()
        if how is How.KILL:
            # Before the kill: an answer may be cut before this task runs again.
            world.killed.setdefault(name, []).append(began + 5)
        await engines.go(name, how)
        if how is How.KILL:
            world.killed[name][-1] = time.monotonic()
        await asyncio.sleep(rng.uniform(8, 14) if how is How.HANG else rng.uniform(1, 5))
        back = await engines.back(name, how)
        await _until_ready(world, gateway, name, back)
        world.counts[f"outages by {how}"] += 1


async def reloads(world: World, rng: random.Random, gateway: Gateway, document: dict[str, Any]) -> None:
    """Change an alias, the policy and limits in the file, and have the gateway reload it by SIGHUP."""
    file = gateway.home / "config.yaml"
    while not world.over.is_set():
        await world.pause(rng.uniform(2, 4))
        changed = document | {
            "aliases": {f"alias-{rng.randrange(9)}": "simulated-llm"},
            "scheduling": {"policy": rng.choice(("hybrid", "least_loaded", "round_robin"))},
            "limits": {"max_n": rng.choice((4, 8)), "queue_requests": rng.choice((2048, 4096))},
        }
        file.write_text(json.dumps(changed))
        gateway.process.send_signal(signal.SIGHUP)
        world.counts["reloads"] += 1


async def _until_ready(world: World, gateway: Gateway, name: str, back: float) -> None:
    while time.monotonic() < back + _BACK_S:
        found = await asyncio.to_thread(gateway.instances)
        if any(one["name"] == name and one["state"] == "ready" for one in found):
            return
        await asyncio.sleep(_POLL_S)
    world.found_lost(f"{name} was not ready {_BACK_S:.0f} s after its first healthy answer")
