"""An engine that serves, and then hangs: it is started again, and its requests succeed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sage_inference.config.settings import HealthSettings, Settings
from sage_inference.engines.managed import hang, supervisor, watch
from sage_inference.keeper.client import stop_all
from tests.support.inprocess import ADMIN
from tests.support.managed import CHAT, COMMON, ManagedGateway, gone, processes

SETTINGS = Settings(
    engines=(CHAT,),
    managed=replace(COMMON, stop_grace_s=0.3),
    health=HealthSettings(interval_s=0.1, timeout_s=0.2),
)


def reload(gateway: ManagedGateway, settings: Settings) -> None:
    gateway.settings_to_load = settings
    assert gateway.http.post("/admin/reload", headers=ADMIN).status_code == 200


def test_a_hung_engine_is_started_again_and_its_requests_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HANG_LOOK_S", 0.05)
    monkeypatch.setattr(hang, "IDLE_S", 0.3)
    monkeypatch.setattr(supervisor, "FIRST_S", 0.5)
    gateway = ManagedGateway(tmp_path, settings=SETTINGS)
    try:
        gateway.start()
        before = gateway.state("chat", "ready")
        # A shorter stall_s holds at once, and is no reason to start the engine anew.
        reload(gateway, replace(SETTINGS, engines=(replace(CHAT, stall_s=0.5),)))
        assert gateway.engine("chat")["pid"] == before["pid"]
        tree = processes(tmp_path)
        with ThreadPoolExecutor(3) as pool:
            running = pool.submit(gateway.chat, max_tokens=100, ignore_eos=True)
            gateway.until(lambda running: running.gateway.in_flight == 1)
            os.kill(before["pid"], signal.SIGSTOP)
            plain, stream = pool.submit(gateway.chat), pool.submit(gateway.chat, stream=True)
            failure = gateway.state("chat", "stopping", "failed")["failure"]
            reload(gateway, SETTINGS)  # the next start may be silent for longer
            answers = [each.result() for each in (running, plain, stream)]
        assert [each.status_code for each in answers] == [200] * 3
        assert "[DONE]" in answers[-1].text
        assert failure["message"].startswith("it answered nothing for ")
        assert failure["message"].endswith("because its process is suspended (SIGSTOP)")
        after = gateway.state("chat", "ready")
        assert (after["pid"] != before["pid"], after["restarts"]) == (True, 1)
        gone([pid for pid in tree if pid not in processes(tmp_path)])
    finally:
        gateway.stop()
        stop_all(tmp_path, 0)
