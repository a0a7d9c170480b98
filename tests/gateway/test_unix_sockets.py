"""Engines on a Unix socket are served as others are: detected, relayed to, missed and found again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.engines.pool import Address, Pool, reason_of
from sage_inference.engines.query import QueryError, ask
from sage_inference.engines.query_clients import query_client
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from sage_inference.wire.loop_batch import LoopBatch
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.other_user import as_nobody
from tests.support.simulators import SimulatedEngine, simulated_engine

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8}


@contextlib.contextmanager
def served(url: str, interval_s: float = 0.1) -> Iterator[InProcess]:
    health = HealthSettings(interval_s=interval_s, timeout_s=2)
    with gateway(InstanceSettings(url=url), health=health) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "vllm.sock"


@pytest.fixture(scope="module")
def vllm(path: Path) -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--uds", str(path), "--model", "m", "--speed", "instant") as engine:
        yield engine


def ready(running: InProcess) -> None:
    running.until(lambda server: server.gateway.can_serve)


def row(running: InProcess) -> dict[str, Any]:
    answer = httpx.get(f"{running.url}/admin/status", headers=ADMIN, trust_env=False)
    found: dict[str, Any] = answer.json()["instances"][0]
    return found


def chat(running: InProcess, **more: object) -> httpx.Response:
    return httpx.post(running.url + CHAT, json={**ASK, **more}, trust_env=False, timeout=20)


def test_answers_and_streams_are_relayed_and_the_socket_is_named(vllm: SimulatedEngine, path: Path) -> None:
    with served(vllm.url) as running:
        ready(running)
        answer, stream = chat(running), chat(running, stream=True)
        request = vllm.requests()[-1]
        shown = row(running)
        drain = f"{running.url}/admin/instances/unix:{path}/drain"
        assert httpx.post(drain, headers=ADMIN, trust_env=False).status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert stream.text.endswith("data: [DONE]\n\n")
    assert answer.headers["x-sage-instance"] == stream.headers["x-sage-instance"] == f"unix:{path}"
    assert request.header("host") == "localhost"
    assert (shown["name"], shown["url"], shown["engine"]) == (f"unix:{path}", f"unix:{path}", "vllm")


def test_a_connection_is_used_again(vllm: SimulatedEngine) -> None:
    with served(vllm.url, interval_s=60) as running:
        ready(running)
        chat(running)
        before = vllm.stats()
        for _ in range(3):
            assert chat(running).status_code == 200
        after = vllm.stats()
    # Each probe has a connection of its own.
    probes = after["probes"] - before["probes"]
    assert after["connections_total"] - before["connections_total"] <= probes + 1


def test_departure_of_a_caller_reaches_the_engine(tmp_path: Path) -> None:
    with simulated_engine("vllm", "--uds", str(tmp_path / "s"), "--model", "m") as engine:
        with served(engine.url) as running:
            ready(running)
            asked = {**ASK, "max_tokens": 5000, "stream": True, "ignore_eos": True}
            with httpx.stream("POST", running.url + CHAT, json=asked, trust_env=False) as stream:
                next(stream.iter_lines())
            engine.wait(disconnects=1, running=0)


def test_embeddings_of_several_callers_share_a_call(tmp_path: Path) -> None:
    with simulated_engine("tei", "--uds", str(tmp_path / "s"), "--model", "e") as engine:
        with served(engine.url) as running:
            ready(running)
            found: list[int] = []

            def ask(text: str) -> None:
                body = {"model": "e", "input": [text, text + "!"]}
                answer = httpx.post(f"{running.url}/v1/embeddings", json=body, trust_env=False)
                found.append(len(answer.json()["data"]))

            threads = [threading.Thread(target=ask, args=(f"text {i}",)) for i in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == [2] * 12
            assert engine.stats()["texts"] == 24


def test_connection_that_the_engine_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    options = ("--uds", str(tmp_path / "s"), "--model", "m", "--speed", "instant", "--keep-alive", "1")
    with simulated_engine("vllm", *options) as engine, served(engine.url) as running:
        ready(running)
        assert chat(running).status_code == 200
        engine.wait(connections=0)
        assert chat(running).status_code == 200
        assert engine.stats()["by_status"] == {"200": 2}


def test_reset_in_a_stream_is_an_error_in_it_and_reset_before_it_is_a_502(tmp_path: Path) -> None:
    with simulated_engine("vllm", "--uds", str(tmp_path / "s"), "--model", "m") as engine:
        events: list[str] = []
        with served(engine.url) as running:
            ready(running)
            engine.faults(reset_after_chunks=2)
            with httpx.stream(
                "POST", running.url + CHAT, json={**ASK, "stream": True}, trust_env=False
            ) as cut:
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                    events.extend(cut.iter_lines())
            engine.faults(reset_before_response=True)
            lost = chat(running)
    assert cut.status_code == 200
    assert "data: [DONE]" not in events
    assert lost.status_code == 502
    assert f"unix:{tmp_path / 's'}" in lost.json()["error"]["message"]


def test_missing_socket_is_a_dead_engine_until_the_engine_is_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served(f"unix:{path}") as running:
        running.until(lambda server: bool(next(iter(server.gateway.engines.values())).last_error))
        assert row(running)["last_error"] == f"cannot be reached: there is no socket {path}"
        with simulated_engine("vllm", "--uds", str(path), "--model", "m", "--speed", "instant") as engine:
            ready(running)
            assert chat(running).status_code == 200
            assert engine.stop() == 0
        # The file of the dead engine is still there.
        answer = chat(running)
        assert answer.status_code in (502, 503)
        running.until(lambda server: not server.gateway.can_serve)
        running.until(
            lambda server: "no server listens" in str(next(iter(server.gateway.engines.values())).last_error)
        )
        path.unlink()
        with simulated_engine("vllm", "--uds", str(path), "--model", "m", "--speed", "instant"):
            ready(running)
            assert chat(running).status_code == 200


def test_stream_ends_whole_while_its_engine_drains_and_others_get_new_requests(
    vllm: SimulatedEngine, tmp_path: Path
) -> None:
    with simulated_engine("vllm", "--model", "m", "--uds", str(tmp_path / "s")) as engine:
        health = HealthSettings(interval_s=60, timeout_s=2)
        with gateway(InstanceSettings(url=engine.url), health=health) as running:
            ready(running)
            asked = {**ASK, "max_tokens": 60, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", running.url + CHAT, json=asked, trust_env=False) as stream:
                lines = stream.iter_lines()
                next(lines)
                added = httpx.post(
                    f"{running.url}/admin/instances", json={"url": vllm.url}, headers=ADMIN, trust_env=False
                )
                running.until(lambda server: server.gateway.engines[vllm.url].instance.is_available)
                engine.process.terminate()
                late = [chat(running).headers["x-sage-instance"] for _ in range(3)]
                rest = [line for line in lines if line]
        assert engine.process.wait(10) == 0
    assert added.status_code == 201
    assert rest[-1] == "data: [DONE]"
    assert late == [vllm.url] * 3


def test_dead_engine_is_retried_at_another_one(vllm: SimulatedEngine, tmp_path: Path) -> None:
    with simulated_engine("vllm", "--model", "m", "--uds", str(tmp_path / "s")) as engine:
        calm = HealthSettings(interval_s=60, timeout_s=2)
        instances = (InstanceSettings(url=engine.url), InstanceSettings(url=vllm.url))
        with gateway(*instances, health=calm) as running:
            running.until(
                lambda server: all(one.instance.is_available for one in server.gateway.engines.values())
            )
            engine.process.kill()
            engine.process.wait()
            for _ in range(4):
                answer = chat(running)
                assert (answer.status_code, answer.headers["x-sage-instance"]) == (200, vllm.url)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_socket_of_another_user_is_named_with_the_permission_that_lacks(tmp_path: Path) -> None:
    """In a relayed request and in a probe."""
    with tempfile.TemporaryDirectory() as open_to_all, socket.socket(socket.AF_UNIX) as server:
        Path(open_to_all).chmod(0o755)
        path = f"{open_to_all}/s"
        server.bind(path)
        server.listen()
        Path(path).chmod(0o600)

        async def reasons() -> list[str]:
            failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
            pool = Pool(Address("localhost", 80, uds=path), LoopBatch(asyncio.get_running_loop().call_soon))
            pool.connect(lambda _: None, failed.set_result)
            relayed = reason_of(await failed)
            client = query_client(uds=path)
            try:
                await ask(client, "http://localhost/health", None)
            except QueryError as error:
                return [relayed, str(error)]
            finally:
                await client.aclose()
            return [relayed]

        found = as_nobody(lambda: asyncio.run(reasons()))
    why = f"this user may not use the socket {path}: the file and its directories must permit that"
    assert found == [why, f"cannot be reached: {why}"]


def test_engine_whose_queue_is_full_is_named_and_another_one_serves(
    vllm: SimulatedEngine, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as stack:
        server.bind(path)
        server.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(path)
        instances = [
            InstanceSettings(url=f"unix:{path}", model="m", kind="llm", engine="vllm"),
            InstanceSettings(url=vllm.url),
        ]
        with gateway(*instances, health=HealthSettings(interval_s=60, timeout_s=2)) as running:
            ready(running)
            full = f"the queue of the socket {path} is full: the engine accepts connections too slowly"
            running.until(lambda server: bool(next(iter(server.gateway.engines.values())).last_error))
            assert row(running)["last_error"] == f"cannot be reached: {full}"

            def believe(server: RunningGateway) -> None:
                for upstream in server.gateway.engines.values():
                    upstream.instance.state = EngineState.READY
                    upstream.instance.models, upstream.instance.routes = ("m",), frozenset({CHAT})

            running.ask(believe)
            began = time.process_time()
            answers = [chat(running) for _ in range(2)]
            assert time.process_time() - began < 0.5  # no loop that spins until there is a place
            assert row(running)["last_error"] == "refused a connection"
        assert [one.headers["x-sage-instance"] for one in answers] == [vllm.url] * 2
