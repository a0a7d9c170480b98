"""A simulator as a process: how it starts, what it keeps, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.simulator import shapes
from tests.support.simulators import EngineNotReadyError, SimulatedEngine, simulated_engine

ROUTE = "/v1/chat/completions"


def long_chat(tokens: int, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "hello"}]
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True, **more}


def test_it_starts_quickly_and_says_where_it_is() -> None:
    began = time.monotonic()
    with simulated_engine("vllm", "--model", "a", "--model", "b") as engine:
        assert time.monotonic() - began < 2  # 0.2 s on an idle machine
        assert engine.models == ["a", "b"]
        with engine.client() as client:
            served = [one["id"] for one in client.get("/v1/models").json()["data"]]
            unknown = client.post(ROUTE, json=long_chat(1, model="c"))
    assert served == ["a", "b"]
    assert unknown.json()["error"]["message"] == "The model `c` does not exist. Valid aliases: a, b."


def test_taken_port_is_one_line_and_status_1() -> None:
    with simulated_engine("tei") as engine:
        command = [sys.executable, "-m", "sage_inference.simulator", "tei", "--port", str(engine.port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, env=_env())
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"cannot listen on 127.0.0.1:{engine.port}: Address already in use\n"


def test_bad_option_is_a_usage_error() -> None:
    with pytest.raises(EngineNotReadyError, match="status 2"):
        SimulatedEngine("vllm", ("--fault", "{}}"))


@pytest.mark.parametrize("kind", ["vllm", "tei"])
def test_it_ends_with_its_parent(kind: str) -> None:
    with simulated_engine(kind) as engine:
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        assert engine.process.wait(10) == 0


def test_sigterm_of_an_idle_engine_ends_it_with_0() -> None:
    for kind in ("vllm", "tei"):
        with simulated_engine(kind) as engine, engine.client() as client:
            assert client.get("/health").status_code == 200
            assert engine.stop() == 0


def test_vllm_finishes_streams_and_refuses_new_work_after_sigterm() -> None:
    draining = shapes.recorded("vllm", "073_new_request_while_draining")["response"]
    with simulated_engine("vllm") as engine, engine.client() as client:
        with client.stream("POST", ROUTE, json=long_chat(60, stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            engine.process.send_signal(signal.SIGTERM)
            with engine.client() as late:
                answer = _until_refused(late)
                assert late.get("/health").status_code == 200
            rest = list(lines)
        assert (answer.status_code, answer.text) == (draining["status"], draining["body"])
        assert rest[-2] == "data: [DONE]"
        assert engine.process.wait(10) == 0


def test_tei_accepts_nothing_more_after_sigterm_but_finishes() -> None:
    with simulated_engine("tei", "--fault", '{"delay_ms": 400}') as engine:
        found: list[httpx.Response] = []
        with engine.client() as client:
            thread = threading.Thread(
                target=lambda: found.append(client.post("/embed", json={"inputs": "x"}))
            )
            thread.start()
            engine.wait(running=1)
            assert engine.stop() == 0
            thread.join()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((engine.host, engine.port))
    assert found[0].status_code == 200


def test_client_leaving_a_stream_stops_the_generation_at_once() -> None:
    with simulated_engine("vllm") as engine, engine.client() as client:
        with client.stream("POST", ROUTE, json=long_chat(30000, stream=True)) as stream:
            next(stream.iter_lines())
        stats = engine.wait(disconnects=1, running=0, batched=0)
    assert (stats["requests"], stats["answered"], stats["aborted"]) == (1, 0, 1)
    assert stats["generated_tokens"] < 3000


def test_client_leaving_before_a_plain_answer_stops_the_generation_at_once() -> None:
    with simulated_engine("vllm") as engine, engine.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(ROUTE, json=long_chat(30000), timeout=0.2)
        stats = engine.wait(disconnects=1, running=0, batched=0)
    assert (stats["answered"], stats["aborted"]) == (0, 1)


def test_requests_are_kept_as_they_came() -> None:
    body = b'{ "inputs" : "caf\\u00e9 \xc3\xa9",\n "odd": 1.50 }'
    headers = {"Content-Type": "application/json", "X-Odd": "a  b"}
    with simulated_engine("tei", "--speed", "instant") as engine, engine.client() as client:
        client.get("/health")
        client.post("/embed?x=%20y", content=body, headers=headers)
        client.post("/tokenize", json={"inputs": "x"})
        (kept,) = engine.requests(route="/embed")
        probes = engine.requests(probes=True)
    assert (kept.method, kept.query, kept.body) == ("POST", "x=%20y", body)
    assert kept.header("x-odd") == "a  b"
    assert [one.path for one in probes] == ["/health"]


def test_waiting_answers_when_the_figure_is_reached_and_says_when_not() -> None:
    with simulated_engine("tei", "--speed", "instant") as engine, engine.client() as client:
        with pytest.raises(AssertionError, match=r"not reached within 0\.05 s"):
            engine.wait(requests=1, timeout_s=0.05)
        client.post("/embed", json={"inputs": ["a", "b"]})
        stats = engine.wait(texts=2, running=0)
        assert (stats["calls"], stats["by_status"]) == (1, {"200": 1})
        assert client.get("/simulator/wait?nonsense=1").status_code == 400
        assert "GET /simulator/stats" in client.get("/simulator/x").json()["error"]


def test_paused_engine_says_nothing_until_it_is_resumed() -> None:
    with simulated_engine("vllm") as engine, engine.client() as client:
        engine.pause()
        with pytest.raises(httpx.ReadTimeout):
            client.get("/health", timeout=0.1)
        engine.resume()
        assert client.get("/health").status_code == 200


def test_pipelined_requests_are_answered_in_order() -> None:
    request = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    bodies = [json.dumps({"inputs": word}).encode() for word in ("one", "two")]
    with simulated_engine("tei", "--speed", "instant") as engine:
        with socket.create_connection((engine.host, engine.port), timeout=10) as connection:
            connection.sendall(b"".join(request % (len(body), body) for body in bodies))
            got = b""
            while b'"two"' not in got:
                got += connection.recv(65536)
    assert got.index(b'"one"') < got.index(b'"two"')


def _until_refused(client: httpx.Client) -> httpx.Response:
    """The first answer after the signal was taken in."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = client.post(ROUTE, json=long_chat(1))
        if answer.status_code != 200:
            return answer
    raise AssertionError("it went on taking work after SIGTERM")


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(shapes.FIXTURES.parents[2])}
