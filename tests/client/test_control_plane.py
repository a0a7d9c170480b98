"""Control-plane mode: the gateway's own scheduling in this process, for threads and tasks."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sage_inference as si
from tests.client.faces import Clients
from tests.support.rogue import RogueEngine, ok, raw
from tests.support.simulators import SimulatedEngine, simulated_engine

POLICY = "least_loaded"


def instance(engine: Any, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": engine.port, **more}


def test_the_specified_way_of_making_one(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    client = clients.control_plane(
        instances=[
            instance(vllm, model_name="simulated-llm", instance_type="general"),
            instance(tei, model_name="simulated-embedding", instance_type="embedding"),
        ],
        scheduling_policy=POLICY,
        embedding_batch_size=32,
    )
    assert client.is_control_plane_mode
    assert client.chat([{"role": "user", "content": "hi"}], max_tokens=2)
    assert client.generate("hi", max_tokens=2)
    assert len(client.embed(["a", "b"])) == 2
    assert "".join(client.chat("hi", stream=True, max_tokens=3))
    assert client.models() == ["simulated-llm", "simulated-embedding"]
    assert client.is_llm_available()
    assert client.is_embedding_available()
    gateway = client.get_status()["gateway"]
    assert [one["state"] for one in gateway["instances"]] == ["ready", "ready"]
    assert gateway["requests"]["total"] == 4


def test_urls_do_as_well_as_instances(clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine) -> None:
    client = clients.control_plane(
        llm_base_url=f"{vllm.url}/v1", embedding_base_url=tei.url, scheduling_policy=POLICY
    )
    assert client.chat("hi", max_tokens=1, return_result=True).instance == f"127.0.0.1:{vllm.port}"
    assert client.embed("a", return_result=True).instance == f"127.0.0.1:{tei.port}"


def test_requests_are_spread_over_the_instances(clients: Clients) -> None:
    with (
        simulated_engine("vllm", "--speed", "instant") as a,
        simulated_engine("vllm", "--speed", "instant") as b,
    ):
        client = clients.control_plane([instance(a), instance(b)], scheduling_policy="round_robin")
        for _ in range(10):
            client.chat("hi", max_tokens=1)
        assert (a.stats()["requests"], b.stats()["requests"]) == (5, 5)


def test_a_killed_instance_costs_no_caller_an_error() -> None:
    with (
        simulated_engine("vllm", "--speed", "instant") as a,
        simulated_engine("vllm", "--speed", "instant") as b,
    ):
        client = si.UnifiedInferenceClient.create_with_control_plane(
            [instance(a), instance(b)], scheduling_policy=POLICY
        )
        begun = threading.Barrier(17)

        def calls(_: int) -> list[str]:
            first = client.chat("hi", max_tokens=2)
            begun.wait(30)
            return [first, *(client.chat("hi", max_tokens=2) for _ in range(20))]

        with client, ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(calls, number) for number in range(16)]
            begun.wait(30)
            a.kill()
            assert all(len(answer.result(60)) == 21 for answer in answers)
            assert {one["state"] for one in client.get_status()["gateway"]["instances"]} == {
                "ready",
                "ejected",
            }


def test_64_threads_share_one_client(tei: SimulatedEngine) -> None:
    with si.UnifiedInferenceClient.create_with_control_plane(
        [instance(tei)], scheduling_policy=POLICY
    ) as client:
        texts = [f"text {number % 5}" for number in range(64)]
        with ThreadPoolExecutor(64) as pool:
            vectors = list(pool.map(client.embed, texts))
        assert vectors == [vectors[number % 5] for number in range(64)]


def test_64_threads_embedding_one_text_make_few_engine_calls() -> None:
    with (
        simulated_engine("tei") as engine,
        si.UnifiedInferenceClient.create_with_control_plane([instance(engine)]) as client,
        ThreadPoolExecutor(64) as pool,
    ):

        def calls(thread: int) -> list[list[float]]:
            return [client.embed(f"text {thread} {number}") for number in range(10)]

        vectors = [vector for some in pool.map(calls, range(64)) for vector in some]
        assert len({tuple(vector) for vector in vectors}) == 640
        assert engine.stats()["by_route"]["/v1/embeddings"] < 640 / 4


def test_large_answers_come_whole_one_after_another(clients: Clients) -> None:
    # More than a pipe holds: the caller is told to pause at the last write, the engine's connection is not.
    body = b'{"id": "' + b"x" * 300_000 + b'", "choices": [{"message": {"content": "yes"}}]}'
    with RogueEngine(ok(body)) as engine:
        client = clients.control_plane([instance(engine, instance_type="llm")], scheduling_policy=POLICY)
        for _ in range(5):
            assert client.chat("hi", timeout=20) == "yes"
        assert engine.connections == 1


def test_a_stream_nobody_reads_pauses_the_engine(clients: Clients) -> None:
    big = b"data: " + b"x" * 60_000 + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 60000000\r\n\r\n"
    sent = []

    def flood(wire: Any) -> None:
        wire.send(head)
        wire.sock.settimeout(1)
        try:
            while True:
                wire.send(big)
                sent.append(len(big))
        except OSError:
            wire.engine.left.put(wire)

    with RogueEngine(flood) as engine:
        client = clients.control_plane([instance(engine, instance_type="llm")], scheduling_policy=POLICY)
        stream = client.chat("hi", stream=True)
        engine.left.get(timeout=20)  # it could not send for a second: nobody took its bytes
        assert sum(sent) < 30_000_000
        stream.close()


def test_the_last_caller_to_leave_ends_the_gateway_and_its_thread(
    clients: Clients, vllm: SimulatedEngine
) -> None:
    def ours() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "sage-inference-local"]

    one, two = (clients.control_plane([instance(vllm)], scheduling_policy=POLICY) for _ in range(2))
    other = clients.control_plane([instance(vllm)], scheduling_policy="random")
    assert len(ours()) == 1
    one.close()
    other.close()
    assert two.chat("hi", max_tokens=1)
    two.close()
    assert ours() == []


def test_nothing_is_left_of_a_hundred_calls_and_dropped_streams(
    clients: Clients, vllm: SimulatedEngine
) -> None:
    def left() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def use() -> None:
        client = clients.control_plane([instance(vllm)], scheduling_policy=POLICY)
        for _ in range(20):
            client.chat("hi", max_tokens=1)
            stream = client.chat("hi", stream=True, max_tokens=500, ignore_eos=True)
            next(stream)
            stream.close()
        client.close()

    use()
    before = left()
    for _ in range(3):
        use()
    assert left() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"instances": [{"host": "127.0.0.1", "prot": 1}]}, "a backend has no prot"),
        ({"instances": [{"instance_type": "cat"}]}, "instance_type 'cat' is not one of"),
        ({"instances": ["ftp://x"]}, "must be http://host:port"),
        ({"instances": ["127.0.0.1:9"] * 2}, "configured already"),
        ({"instances": [], "scheduling_policy": "best"}, "best"),
        ({"instances": [], "embedding_batch_size": 0}, "embedding_batch_size"),
        ({"instances": [], "embeding_priority": "low"}, "did you mean .*embedding_priority"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_instance_is_told_at_once(clients: Clients, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clients.control_plane(**{"scheduling_policy": POLICY, **arguments})


def test_no_instance_that_is_well_is_an_error_that_says_so(clients: Clients) -> None:
    with RogueEngine(ok()) as engine:
        gone = engine.port
    client = clients.control_plane(
        [{"port": gone, "model_name": "m", "instance_type": "llm"}], scheduling_policy=POLICY
    )
    assert not client.is_llm_available()
    with pytest.raises(si.EngineError) as caught:
        client.chat("hi", timeout=1)
    assert caught.value.status == 503


def test_a_timeout_in_process_reaches_the_engine(clients: Clients) -> None:
    with RogueEngine(raw(b"", then="silent")) as engine:
        client = clients.control_plane([instance(engine, instance_type="llm")], scheduling_policy=POLICY)
        with pytest.raises(si.InferenceTimeoutError):
            client.chat("hi", timeout=0.3)
        engine.left.get(timeout=10)
