"""Every fault looks on the wire as it is named, and ends when it is told to."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.simulator import shapes
from tests.support.simulators import SimulatedEngine, simulated_engine

ROUTE = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 8,
    "ignore_eos": True,
}
DRAINING = shapes.recorded("vllm", "073_new_request_while_draining")["response"]
CORE_DIED = shapes.recorded("vllm", "072_engine_core_killed")["stream_last_chunks"]


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--speed", "instant") as engine:
        yield engine


@pytest.fixture
def engine(shared: SimulatedEngine) -> Iterator[SimulatedEngine]:
    yield shared
    shared.heal()


@pytest.fixture
def client(engine: SimulatedEngine) -> Iterator[httpx.Client]:
    with engine.client() as client:
        yield client


def raw(engine: SimulatedEngine, *, stream: bool = False, enough: bytes | None = None) -> tuple[bytes, str]:
    """All bytes that come on a connection of one request, and how it ended: fin, reset or silence.

    ``enough``: bytes after whose arrival the end is still waited for, but only for a moment.
    """
    body = json.dumps(BODY | {"stream": stream}).encode()
    head = f"POST {ROUTE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    got = b""
    with socket.create_connection((engine.host, engine.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        while True:
            if enough is not None and enough in got:
                connection.settimeout(0.2)
            try:
                data = connection.recv(65536)
            except ConnectionResetError:
                return got, "reset"
            except TimeoutError:
                return got, "silence"
            if not data:
                return got, "fin"
            got += data


def test_status_with_count_is_used_up(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(status=429, count=2, headers={"retry-after": "3"}, body='{"why": "busy"}')
    answers = [client.post(ROUTE, json=BODY) for _ in range(3)]
    assert [one.status_code for one in answers] == [429, 429, 200]
    assert (answers[0].headers["retry-after"], answers[0].json()) == ("3", {"why": "busy"})


def test_fault_without_route_leaves_probes_alone(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(status=500, count=1)
    assert client.get("/health").status_code == 200
    assert client.post(ROUTE, json=BODY).status_code == 500


def test_fault_with_route_meets_that_one_only(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(status=503, route="/health")
    assert client.get("/health").status_code == 503
    assert client.post(ROUTE, json=BODY).status_code == 200


def test_draining_is_answered_as_recorded(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(draining=True)
    answer = client.post(ROUTE, json=BODY)
    assert (answer.status_code, answer.text) == (DRAINING["status"], DRAINING["body"])
    assert client.get("/health").status_code == 200


def test_core_dying_ends_a_stream_as_recorded(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(error_after_chunks=3)
    text = client.post(ROUTE, json=BODY | {"stream": True}).text
    assert text.endswith("".join(CORE_DIED[-2:]))
    assert text.count("data: ") == 3 + 2


@pytest.mark.parametrize(
    ("kind", "end"),
    [("reset_before_response", "reset"), ("close_before_response", "fin")],
)
def test_connection_ends_instead_of_an_answer(engine: SimulatedEngine, kind: str, end: str) -> None:
    engine.faults(**{kind: True})
    assert raw(engine) == (b"", end)


@pytest.mark.parametrize(
    ("kind", "end"),
    [("reset_after_chunks", "reset"), ("close_after_chunks", "fin"), ("hang_after_chunks", "silence")],
)
def test_stream_breaks_off_after_chunks(engine: SimulatedEngine, kind: str, end: str) -> None:
    engine.faults(**{kind: 3})
    got, ended = raw(engine, stream=True, enough=b"!")
    assert (got.count(b"data: "), ended) == (3, end)
    assert b"\r\n0\r\n" not in got


@pytest.mark.parametrize(
    ("kind", "end"),
    [("reset_after_chunks", "reset"), ("truncate", "fin"), ("hang_after_chunks", "silence")],
)
def test_plain_body_breaks_off_half_way(engine: SimulatedEngine, kind: str, end: str) -> None:
    engine.faults(**{kind: 1})
    got, ended = raw(engine, enough=b'"object"')
    head, _, body = got.partition(b"\r\n\r\n")
    declared = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split()[1])
    assert ended == end
    assert 0 < len(body) < declared


def test_truncated_chunk_is_shorter_than_declared(engine: SimulatedEngine) -> None:
    engine.faults(truncate=True)
    got, ended = raw(engine, stream=True)
    last_size = int(got.rpartition(b"\r\ndata: ")[0].rpartition(b"\r\n")[2], 16)
    assert ended == "fin"
    assert len(got.rpartition(b"\r\ndata: ")[2]) + len(b"data: ") < last_size


@pytest.mark.parametrize("wrong", [5, -5])
def test_declared_length_is_wrong(engine: SimulatedEngine, wrong: int) -> None:
    engine.faults(wrong_content_length=wrong)
    head, _, body = raw(engine, enough=b'"metrics":null}')[0].partition(b"\r\n\r\n")
    assert f"content-length: {len(body) + wrong}".encode() in head.lower()


def test_surplus_bytes_follow_a_complete_answer(engine: SimulatedEngine) -> None:
    engine.faults(surplus="HTTP/1.1 200 OK\r\n")
    got, ended = raw(engine, enough=b"}HTTP")
    assert got.endswith(b'"metrics":null}HTTP/1.1 200 OK\r\n')
    assert ended in ("silence", "fin")


def test_garbage_is_not_http(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(garbage=True, count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(ROUTE, json=BODY)


@pytest.mark.parametrize("stream", [False, True])
def test_slow_drip_takes_its_time_and_is_complete(
    engine: SimulatedEngine, client: httpx.Client, stream: bool
) -> None:
    engine.faults(slow_drip_ms=2)
    answer = client.post(ROUTE, json=BODY | {"stream": stream})
    assert answer.text.endswith("data: [DONE]\n\n" if stream else '"metrics":null}')
    assert answer.elapsed.total_seconds() > 0.015


def test_delay_comes_before_an_answer_as_usual(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults(delay_ms=50)
    answer = client.post(ROUTE, json=BODY)
    assert (answer.status_code, answer.elapsed.total_seconds() > 0.05) == (200, True)


def test_hanging_request_ends_with_its_client(engine: SimulatedEngine) -> None:
    engine.faults(hang=True)
    before = engine.stats()["disconnects"]
    with engine.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(ROUTE, json=BODY, timeout=0.1)
    assert engine.wait(disconnects=before + 1, running=0)["running"] == 0


def test_refusing_engine_comes_back_on_its_port(engine: SimulatedEngine, client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    engine.faults(refuse=True)
    engine.wait(connections=0)
    with pytest.raises(httpx.ConnectError):
        client.get("/health")
    engine.heal()
    assert client.get("/health").status_code == 200


def test_several_faults_at_once(engine: SimulatedEngine, client: httpx.Client) -> None:
    engine.faults([{"unhealthy": True}, {"status": 503, "count": 1}, {"status": 429, "count": 1}])
    assert client.get("/health").status_code == 503
    assert [client.post(ROUTE, json=BODY).status_code for _ in range(3)] == [503, 429, 200]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"hnag": True}, "hnag"),
        ({"hang": True, "garbage": True}, "one kind"),
        ({"count": 2}, "one kind"),
        ([5], "5"),
    ],
)
def test_nonsense_is_refused_with_a_reason(client: httpx.Client, given: Any, named: str) -> None:
    answer = client.post("/simulator/faults", json=given)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def test_fault_can_be_there_from_the_start() -> None:
    with simulated_engine("tei", "--fault", '{"status": 500, "count": 1}', "--speed", "instant") as engine:
        with engine.client() as client:
            answers = [client.post("/embed", json={"inputs": "x"}).status_code for _ in range(2)]
    assert answers == [500, 200]
