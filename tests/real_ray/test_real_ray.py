"""A gateway before a real Ray cluster: what callers see while parts of it die. The tests run in this order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.real_ray.cluster import HEAD, RealRay, awaited, with_signal
from tests.real_ray.load import MODEL, Streams
from tests.support.command import sage
from tests.support.gateway import Gateway

pytestmark = [pytest.mark.real_ray, pytest.mark.timeout(300), pytest.mark.flaky(reruns=0)]
APPLICATION = "sage-engines.llm"
PATIENT_S = 120


def document(replicas: int, *more: str) -> str:
    command = [
        "python3",
        "-m",
        "sage_inference.simulator",
        "vllm-serve",
        MODEL,
        "--host",
        "{host}",
        "--port",
        "{port}",
    ]
    model = {
        "model": MODEL,
        "engine": "command",
        "replicas": replicas,
        "gpus": 0,
        "command": [*command, *more],
    }
    return json.dumps({"models": [model]})


def cluster(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    return sage(gateway.home, "cluster", *words, "--head", HEAD, timeout=240)


def scale(gateway: Gateway, count: int) -> None:
    assert cluster(gateway, "scale", "llm", str(count)).returncode == 0


def instances(gateway: Gateway) -> list[dict[str, Any]]:
    return [each for each in gateway.instances() if each["state"] == "ready"]


def settle(ray: RealRay, gateway: Gateway, count: int) -> float:
    """Wait until Ray runs ``count`` replicas and the gateway has just these. Returns the seconds."""

    def same() -> bool:
        urls = {each.url for each in ray.replicas(APPLICATION)}
        return len(urls) == count and {each["url"] for each in instances(gateway)} == urls

    return awaited(same, PATIENT_S, f"{count} replicas, and the gateway has them")


def ask(gateway: Gateway, text: str = "hello") -> httpx.Response:
    body = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": text}]}
    with gateway.client() as client:
        return client.post("/v1/chat/completions", json=body)


def test_a_gateway_that_was_there_before_serves_what_comes_up(
    ray: RealRay, gateway: Gateway, file: Path, figures: list[str]
) -> None:
    assert ask(gateway).status_code in (404, 503)
    file.write_text(document(3))
    began = time.monotonic()
    shown = cluster(gateway, "up", str(file))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    up = time.monotonic() - began
    running = time.monotonic()
    awaited(lambda: ask(gateway).status_code == 200, 30, "an answer")
    served = time.monotonic() - running
    settle(ray, gateway, 3)
    assert served <= 2 + 1 + 1
    figures.append(f"3 replicas up after {up:.0f} s; first answer {served:.1f} s after the command ended")
    shown = cluster(gateway, "status")
    assert shown.returncode == 0
    assert "3 of 3" in shown.stdout


def test_the_gateway_has_no_ray(gateway: Gateway) -> None:
    for process in [psutil.Process(gateway.process.pid), *psutil.Process(gateway.process.pid).children()]:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "_raylet" not in maps
        assert "sage_inference" in " ".join(process.cmdline()) or process.pid != gateway.process.pid


def test_a_model_that_cannot_start_is_explained_and_goes_again(
    ray: RealRay, gateway: Gateway, file: Path
) -> None:
    command = ["no-such-program"]
    file.write_text(json.dumps({"models": [{"model": "x/bad", "gpus": 0, "command": command}]}))
    shown = cluster(gateway, "up", str(file))
    assert shown.returncode == 1
    assert "command begins with no-such-program, which is not in PATH" in shown.stderr
    assert cluster(gateway, "status").returncode == 1
    shown = cluster(gateway, "down", "bad")
    assert (shown.returncode, shown.stdout) == (0, "ended bad\n"), shown.stderr
    assert cluster(gateway, "status").returncode == 0


def test_one_prompt_stays_on_one_replica(gateway: Gateway) -> None:
    text = "a long beginning that a prefix cache can keep " * 60
    names = {ask(gateway, text).headers["x-sage-instance"] for _ in range(4)}
    assert len(names) == 1


def test_a_killed_replica_fails_no_stream(ray: RealRay, gateway: Gateway, figures: list[str]) -> None:
    victim = ray.replicas(APPLICATION)[0]
    with Streams(gateway.port) as load:
        load.run(3)
        os.kill(victim.pid, signal.SIGKILL)
        began = time.monotonic()
        awaited(
            lambda: victim.url not in {each["url"] for each in instances(gateway)}, 60, "it leaves the list"
        )
        gone = time.monotonic() - began
        settle(ray, gateway, 3)
        back = time.monotonic() - began
        load.run(3)
    figures.append(
        f"replica kill -9: {load.words()}; out of the list after {gone:.0f} s, replaced after {back:.0f} s"
    )
    assert load.failed == 0
    awaited(lambda: not psutil.pid_exists(victim.engine_pid), 60, "its engine ends")


def test_a_killed_engine_fails_its_own_streams_alone(
    ray: RealRay, gateway: Gateway, figures: list[str]
) -> None:
    victim = ray.replicas(APPLICATION)[0]
    [name] = [each["name"] for each in instances(gateway) if each["url"] == victim.url]
    with Streams(gateway.port) as load:
        load.run(3)
        under_way = next(each["in_flight"] for each in gateway.instances() if each["name"] == name)
        os.kill(victim.engine_pid, signal.SIGKILL)
        began = time.monotonic()
        awaited(lambda: victim.id not in {each.id for each in ray.replicas(APPLICATION)}, 60, "Ray drops it")
        settle(ray, gateway, 3)
        back = time.monotonic() - began
        load.run(3)
    figures.append(f"engine kill -9: {load.words()}; {under_way} ran on it; replaced after {back:.0f} s")
    assert set(load.counts) <= {"well", "error event"}
    assert load.counts["error event"] <= under_way + 3  # those that were sent since the look


def test_scaling_under_load_fails_no_stream(ray: RealRay, gateway: Gateway, figures: list[str]) -> None:
    with Streams(gateway.port) as load:
        load.run(1)
        before = {each["name"] for each in instances(gateway)}
        scale(gateway, 4)
        up = settle(ray, gateway, 4)
        [new] = [each["name"] for each in instances(gateway) if each["name"] not in before]
        awaited(
            lambda: any(ask(gateway, str(at)).headers.get("x-sage-instance") == new for at in range(20)),
            30,
            "it is used",
        )
        scale(gateway, 2)
        down = settle(ray, gateway, 2)
        load.run(2)
    figures.append(f"scale 3 to 4 ({up:.0f} s) to 2 ({down:.0f} s): {load.words()}")
    assert load.failed == 0


def test_a_dead_dashboard_changes_nothing(ray: RealRay, gateway: Gateway, figures: list[str]) -> None:
    [dashboard] = ray.named("dashboard.py")
    words, environ, cwd = dashboard.cmdline(), dashboard.environ(), dashboard.cwd()
    with Streams(gateway.port) as load:
        load.run(2)
        os.kill(dashboard.pid, signal.SIGKILL)
        awaited(lambda: gateway.status()["sources"][0]["state"] != "ok", 60, "the source is stale")
        load.run(20)
        shown = sage(gateway.home, "status")
        assert shown.returncode == 0
    figures.append(f"dashboard kill -9 for 20 s and more: {load.words()}")
    assert load.failed == 0
    assert cluster(gateway, "status").returncode == 4
    with Path(os.devnull).open("rb+") as null:
        subprocess.Popen(
            words, env=environ, cwd=cwd, stdin=null, stdout=null, stderr=null, start_new_session=True
        )
    awaited(lambda: gateway.status()["sources"][0]["state"] == "ok", PATIENT_S, "the source is well again")


def test_a_dead_serve_controller_fails_no_stream(ray: RealRay, gateway: Gateway, figures: list[str]) -> None:
    [controller] = ray.named("ServeController")
    urls = {each["url"] for each in instances(gateway)}
    with Streams(gateway.port) as load:
        load.run(2)
        os.kill(controller.pid, signal.SIGKILL)
        began = time.monotonic()
        awaited(
            lambda: ray.named("ServeController") and ray.replicas(APPLICATION), PATIENT_S, "a new controller"
        )
        back = time.monotonic() - began
        load.run(5)
    figures.append(f"Serve controller kill -9: {load.words()}; another one answers after {back:.0f} s")
    assert load.failed == 0
    settle(ray, gateway, 2)
    assert {each["url"] for each in instances(gateway)} == urls


def test_a_model_without_engines_answers_503_and_comes_back(
    ray: RealRay, gateway: Gateway, figures: list[str]
) -> None:
    scale(gateway, 0)
    awaited(lambda: not instances(gateway), PATIENT_S, "all leave")
    answer = ask(gateway)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    scale(gateway, 2)
    began = time.monotonic()
    awaited(lambda: ask(gateway).status_code == 200, PATIENT_S, "an answer")
    figures.append(
        f"scaled to 0: 503 with Retry-After; serves {time.monotonic() - began:.0f} s after scale 2"
    )
    settle(ray, gateway, 2)


def test_the_death_of_a_node_fails_only_what_ran_there(
    ray: RealRay, gateway: Gateway, figures: list[str]
) -> None:
    scale(gateway, 3)
    settle(ray, gateway, 3)
    nodes = {each.node for each in ray.replicas(APPLICATION)}
    assert len(nodes) == 2
    with Streams(gateway.port) as load:
        load.run(3)
        busy = sum(each["in_flight"] for each in gateway.instances())
        engines = ray.kill_node()
        assert engines
        began = time.monotonic()
        awaited(
            lambda: len({each.node for each in ray.replicas(APPLICATION)}) == 1,
            PATIENT_S,
            "Ray drops the node",
        )
        gone = time.monotonic() - began
        settle(ray, gateway, len(ray.replicas(APPLICATION)))
        load.run(5)
    figures.append(
        f"node kill -9: {load.words()}; {busy} ran on all; Ray's list is without it after {gone:.0f} s"
    )
    assert set(load.counts) <= {"well", "error event"}


def test_a_dead_gcs_fails_nothing_for_half_a_minute_and_the_gateway_lives_on(
    ray: RealRay, gateway: Gateway, figures: list[str]
) -> None:
    [gcs] = ray.named("gcs_server")
    with Streams(gateway.port) as load:
        load.run(1)
        with_signal(gcs.pid, signal.SIGKILL)
        began = time.monotonic()
        load.run(30)
        early = load.words()
        assert load.failed == 0
        awaited(lambda: load.failed, 150, "the engines end")
        end = time.monotonic() - began
    figures.append(f"GCS kill -9: {early} in the first 30 s; first failure after {end:.0f} s")
    answer = ask(gateway)
    assert (answer.status_code, gateway.process.poll()) == (503, None)
