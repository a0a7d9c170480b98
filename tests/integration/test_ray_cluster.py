"""The gateway in front of a Ray cluster: recorded documents of its dashboard, and simulated engines behind replicas."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from tests.support.command import sage
from tests.support.gateway import Gateway, running_gateway
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.simulators import SimulatedEngine, simulated_engine

MODEL = "qwen2.5-7b"
PROMPT = "The tale of a long winter. " * 60


@pytest.fixture(scope="module")
def engines() -> Iterator[list[SimulatedEngine]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(simulated_engine("vllm", "--model", MODEL, "--speed", "instant"))
            for _ in range(3)
        ]


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as made:
        yield made


@contextmanager
def gateway_of(cluster: RayCluster, env: dict[str, str] | None = None, **keys: Any) -> Iterator[Gateway]:
    source = {"ray": cluster.url, "interval_s": 0.2, "drain_s": 5, **keys}
    with running_gateway(config={"sources": [source], "health": {"interval_s": 0.5}}, env=env) as gateway:
        yield gateway


def until(fact: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ready(gateway: Gateway) -> set[str]:
    return {each["name"] for each in gateway.instances() if each["state"] == "ready"}


def chat(client: httpx.Client, prompt: str = "Hi", **body: Any) -> httpx.Response:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4, **body}
    return client.post("/v1/chat/completions", json=asked)


class Load:
    """Streams one after another from four callers, until it is ended. ``failed``: those that broke or were refused."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ended = Event()
        self.done = 0
        self.failed: list[str] = []
        self._pool = ThreadPoolExecutor(4)
        self._callers = [self._pool.submit(self._call, number) for number in range(4)]

    def _call(self, number: int) -> None:
        with self._gateway.client() as client:
            while not self._ended.is_set():
                answer = chat(client, f"{number}.{self.done} tell", stream=True, max_tokens=16)
                if answer.status_code != 200 or "[DONE]" not in answer.text or '"error"' in answer.text:
                    self.failed.append(f"{answer.status_code} {answer.text[-300:]}")
                self.done += 1

    def end(self) -> None:
        self._ended.set()
        for caller in self._callers:
            caller.result(30)
        self._pool.shutdown()


@pytest.fixture
def ray_package(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine on which Ray is installed. The test fails if the package is loaded."""
    mark = tmp_path / "loaded"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    environ = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    }
    yield environ
    assert not mark.exists()
    subprocess.run([sys.executable, "-c", "import ray"], env=os.environ | environ, check=True)
    assert mark.exists()


def test_replicas_come_and_go_while_the_gateway_runs_without_ray(
    cluster: RayCluster, engines: list[SimulatedEngine], ray_package: dict[str, str]
) -> None:
    with gateway_of(cluster, ray_package) as gateway:
        assert gateway.instances() == []
        names = [f"sage-engines.{cluster.add(engine.url)}" for engine in engines]
        until(lambda: ready(gateway) == set(names))
        load = Load(gateway)
        until(lambda: load.done > 20)
        cluster.remove(names[0].rpartition(".")[2])
        until(lambda: ready(gateway) == set(names[1:]))
        seen = load.done
        until(lambda: load.done > seen + 20)
        successor = f"sage-engines.{cluster.add(engines[0].url)}"  # on the same port
        until(lambda: successor in ready(gateway))
        seen = load.done
        until(lambda: load.done > seen + 20)
        load.end()
        assert load.failed == []
        shown = sage(gateway.home, "status")
        assert shown.returncode == 0
        assert f"ray {cluster.url} sage-engines" in shown.stdout
        assert "gpu1" in shown.stdout


def test_the_same_prompt_goes_to_the_same_replica_until_it_is_gone(
    cluster: RayCluster, engines: list[SimulatedEngine]
) -> None:
    with gateway_of(cluster) as gateway, gateway.client() as client:
        names = {f"sage-engines.{cluster.add(engine.url)}" for engine in engines}
        until(lambda: ready(gateway) == names)
        first = chat(client, PROMPT).headers["x-sage-instance"]
        assert [chat(client, PROMPT).headers["x-sage-instance"] for _ in range(5)] == [first] * 5
        cluster.remove(first.rpartition(".")[2])
        until(lambda: first not in ready(gateway))
        second = chat(client, PROMPT).headers["x-sage-instance"]
        assert second in names - {first}
        assert chat(client, PROMPT).headers["x-sage-instance"] == second


def test_a_model_whose_replicas_are_all_gone_is_unavailable_and_not_unknown(
    cluster: RayCluster, engines: list[SimulatedEngine]
) -> None:
    with gateway_of(cluster, drain_s=0) as gateway, gateway.client() as client:
        replica = cluster.add(engines[0].url)
        until(lambda: ready(gateway))
        assert chat(client).status_code == 200
        cluster.remove(replica)
        until(lambda: not ready(gateway))
        answers = []
        for _ in range(3):
            answers.append(chat(client))
            cluster.look()
        assert {each.status_code for each in answers} == {503}
        assert all(int(each.headers["retry-after"]) >= 1 for each in answers)
        cluster.add(engines[1].url)
        until(lambda: ready(gateway))
        assert chat(client).status_code == 200


def test_a_silent_dashboard_changes_nothing_and_status_shows_it(
    cluster: RayCluster, engines: list[SimulatedEngine]
) -> None:
    with gateway_of(cluster) as gateway, gateway.client() as client:
        name = f"sage-engines.{cluster.add(engines[0].url)}"
        until(lambda: ready(gateway) == {name})
        for raw, then in (
            (b"", "close"),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", "close"),
            (b"HTTP/1.1 500 No\r\n\r\n", "close"),
        ):
            cluster.raw, cluster.then = raw, then
            cluster.look()
            assert chat(client).status_code == 200
        until(lambda: gateway.status()["sources"][0]["state"] == "stale")
        shown = sage(gateway.home, "status")
        assert shown.returncode == 0
        assert "stale" in shown.stdout
        cluster.raw = None
        until(lambda: gateway.status()["sources"][0]["state"] == "ok")
        assert ready(gateway) == {name}
        log = gateway.paths.log_file.read_text()
        assert log.count("its last list holds") == 1
        assert log.count("answers again") == 1


def test_engines_stay_while_serve_has_lost_its_controller_and_leave_with_their_application(
    cluster: RayCluster, engines: list[SimulatedEngine]
) -> None:
    with gateway_of(cluster, drain_s=0) as gateway, gateway.client() as client:
        name = f"sage-engines.{cluster.add(engines[0].url)}"
        until(lambda: ready(gateway) == {name})
        cluster.status.clear()  # Ray answers so while no controller runs: no application at all
        for _ in range(3):
            cluster.look()
        assert chat(client).status_code == 200
        assert ready(gateway) == {name}
        assert "has no application sage-engines" in str(gateway.status()["sources"][0]["skipped"])
        cluster.status["sage-engines"] = (
            "DELETING"  # the controller is back, and somebody ends the application
        )
        cluster.remove(name.rpartition(".")[2])
        until(lambda: not gateway.instances())
