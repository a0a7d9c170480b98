"""Engines that fail, take long, or start only when they are wanted; the tests share a gateway."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.gateway.managed import waiting_room
from tests.support.inprocess import ADMIN
from tests.support.managed import ManagedGateway, gone, managed, processes
from tests.support.wire import CHAT, Caller, chat, post

FAST = ("--speed", "instant")
BROKEN = ManagedEngineSettings(
    model="org/broken", engine="vllm", args=("--fail-with", "unknown_architecture")
)
SLOW = ManagedEngineSettings(
    model="org/slow", engine="vllm", args=("--load-seconds", "60"), start_timeout_s=1, restart="never"
)
SILENT = ManagedEngineSettings(
    model="org/silent", engine="vllm", args=("--fail-with", "stalled"), stall_s=1, restart="never"
)
ENDLESS = ManagedEngineSettings(model="org/endless", engine="vllm", args=("--load-seconds", "600"))
LAZY = ManagedEngineSettings(model="org/lazy", engine="tei", kind="embedding", start="demand")
MANUAL = ManagedEngineSettings(model="org/manual", engine="tei", kind="embedding", start="manual")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedGateway]:
    engines = (BROKEN, SLOW, LAZY, MANUAL, ENDLESS, SILENT)
    with managed(tmp_path_factory.mktemp("state"), *engines) as gateway:
        yield gateway


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_a_start_that_no_retry_mends_is_not_repeated(shared: ManagedGateway) -> None:
    found = shared.state("broken", "failed")
    assert found["failure"]["permanent"]
    assert found["failure"]["retry_in_s"] is None
    status, code, message = error_of(shared.chat("org/broken"))
    assert (status, code) == (503, "engine_failed")
    assert found["failure"]["message"] in message
    assert shared.runs("broken") == 1
    assert found["pid"] is None


def test_a_start_that_takes_too_long_ends(shared: ManagedGateway) -> None:
    assert shared.state("slow", "starting", "stopping", "failed")
    answer = shared.chat("org/slow")  # waits, and hears why it waited for nothing
    status, code, message = error_of(answer)
    assert (status, code) == (503, "engine_failed")
    assert "start_timeout_s" in message
    assert int(answer.headers["retry-after"]) > 0
    assert shared.state("slow", "failed")["failure"]["permanent"], "restart is never"


def test_a_start_without_a_sign_of_life_ends(shared: ManagedGateway) -> None:
    failure = shared.state("silent", "failed")["failure"]
    assert "stall_s" in failure["message"]
    assert failure["permanent"], "restart is never"


def test_an_engine_starts_on_demand(shared: ManagedGateway) -> None:
    assert shared.engine("lazy")["state"] == "off"
    assert "org/lazy" in [card["id"] for card in shared.http.get("/v1/models").json()["data"]]
    assert shared.embed("org/lazy").status_code == 200
    assert shared.engine("lazy")["state"] == "ready"


def test_an_engine_waits_for_its_load(shared: ManagedGateway) -> None:
    status, code, message = error_of(shared.embed("org/manual"))
    assert (status, code) == (503, "engine_not_loaded")
    assert "sage inference load manual" in message
    assert shared.order("manual", "load").json()["engine"]["state"] in ("waiting", "starting")
    assert shared.embed("org/manual").status_code == 200


def test_a_deadline_ends_the_wait_with_the_phase(shared: ManagedGateway) -> None:
    shared.order("manual", "unload")
    shared.state("manual", "off")
    shared.order("manual", "load")
    shared.state("manual", "starting")
    body = {"model": "org/manual", "input": "a text"}
    answer = shared.http.post("/v1/embeddings", json=body, headers={"x-sage-deadline-ms": "50"})
    status, code, message = error_of(answer)
    assert (status, code) == (503, "engine_loading")
    assert "loading" in message
    assert int(answer.headers["retry-after"]) > 0
    shared.state("manual", "ready")


def test_a_wait_that_ends_in_a_second_start_names_the_failure_of_the_first(shared: ManagedGateway) -> None:
    before = shared.state("endless", "starting")
    os.kill(before["pid"], signal.SIGKILL)
    shared.state("endless", "failed")
    assert shared.state("endless", "starting")["pid"] != before["pid"]
    body = {"model": "org/endless", "messages": [{"role": "user", "content": "a"}]}
    answer = shared.http.post(CHAT, json=body, headers={"x-sage-deadline-ms": "50"})
    status, code, message = error_of(answer)
    assert (status, code) == (503, "engine_loading")
    assert "after it failed: another program ended it with SIGKILL" in message


def test_a_caller_that_leaves_waits_no_more_and_an_unload_ends_the_others(shared: ManagedGateway) -> None:
    shared.state("endless", "starting")
    with Caller(shared.port) as leaving:
        leaving.send(post(CHAT, chat(model="org/endless")))
        shared.until(lambda gateway: len(gateway.gateway.waiting_room) == 1)
        assert shared.engine("endless")["queued"] == 1
    shared.until(lambda gateway: len(gateway.gateway.waiting_room) == 0)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(shared.chat, "org/endless") for _ in range(3)]
        shared.until(lambda gateway: len(gateway.gateway.waiting_room) == 3)
        shared.order("endless", "unload")
        errors = {error_of(each.result())[:2] for each in waiting}
    assert errors == {(503, "engine_not_loaded")}
    shared.state("endless", "off")


def test_a_stream_hears_comments_while_its_engine_loads(
    shared: ManagedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "TELL_S", 0.2)
    loads = ManagedEngineSettings(model="org/loads", engine="vllm", args=("--load-seconds", "1.5", *FAST))
    fails = ManagedEngineSettings(
        model="org/fails",
        engine="vllm",
        args=("--load-seconds", "2.5", "--fail-with", "no_cache_blocks"),
    )
    changes = shared.reload(BROKEN, SLOW, LAZY, MANUAL, ENDLESS, loads, fails)
    assert changes["added"] == ["loads", "fails"]
    with ThreadPoolExecutor(2) as pool:
        served, failed = pool.map(shared.stream, ("org/loads", "org/fails"))
    assert served.startswith(": loading")
    assert served.rstrip().endswith("data: [DONE]")
    assert failed.startswith(": loading")
    assert '"code":"engine_failed"' in failed
    assert "[DONE]" not in failed


def test_a_reload_replaces_and_removes_engines_and_loses_no_request(shared: ManagedGateway) -> None:
    before = shared.state("lazy", "ready")
    manual = processes(shared.state_dir)
    statuses = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            statuses.append(shared.embed("org/lazy").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    changes = shared.reload(replace(LAZY, dtype="float16"))
    assert changes["changed"] == ["lazy"]
    assert {"broken", "slow", "manual", "endless"} <= set(changes["removed"])
    deadline = time.monotonic() + 30
    while shared.runs("lazy") == 1 or shared.engine("lazy")["state"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    done.set()
    thread.join(30)
    after = shared.engine("lazy")
    assert after["pid"] != before["pid"]
    assert not after["outdated"]
    assert set(statuses) == {200}
    names = [each["name"] for each in shared.http.get("/admin/engines", headers=ADMIN).json()["engines"]]
    assert names == ["lazy"]
    gone([pid for pid in manual if pid not in processes(shared.state_dir)])
    assert error_of(shared.embed("org/manual"))[:2] == (404, "model_not_found")
