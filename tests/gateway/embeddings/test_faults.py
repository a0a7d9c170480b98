"""What goes wrong with an embedding call stays with those whom it concerns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sage_inference.config.settings import (
    InstanceSettings,
    LimitSettings,
    SchedulingSettings,
    TimeoutSettings,
)
from sage_inference.control_plane.embedding import CallLimits
from tests.gateway.embeddings.callers import (
    DIMENSION,
    MODEL,
    batcher,
    embed,
    expected,
    meanwhile,
    native,
    vectors_of,
)
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine
from tests.support.wire import Caller, post

SIZE = ("--dimension", str(DIMENSION), "--model", MODEL)


@pytest.fixture(scope="module")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", *SIZE) as engine:
        yield engine


@pytest.fixture
def door(tei: SimulatedEngine) -> Iterator[InProcess]:
    tei.heal()
    with gateway(InstanceSettings(url=tei.url, name="tei")) as running:
        yield running


def _body(text: str) -> bytes:
    return b'{"model":"%b","input":"%b"}' % (MODEL.encode(), text.encode())


def _post(text: str) -> bytes:
    return post("/v1/embeddings", _body(text), "content-type: application/json")


def test_one_bad_text_fails_its_own_caller_alone_and_in_few_calls(
    door: InProcess, tei: SimulatedEngine
) -> None:
    before = tei.stats()["requests"]
    answers = meanwhile(
        tei,
        door,
        *(
            lambda n=n: native(door, inputs="long " * 700 if n == 17 else f"t {n}", truncate=False)
            for n in range(40)
        ),
    )
    for n, answer in enumerate(answers):
        if n == 17:
            assert answer.status_code == 422
            assert "must have less than 512 tokens" in answer.json()["error"]
        else:
            assert vectors_of(answer) == [expected(f"t {n}")]
    assert tei.stats()["requests"] - before <= 4 + 2 * 6


def test_vllm_refuses_a_whole_batch_and_only_one_caller_learns_of_it() -> None:
    with (
        simulated_engine("vllm", "--runner", "pooling", "--max-model-len", "64", *SIZE) as engine,
        gateway(InstanceSettings(url=engine.url, name="vllm")) as door,
    ):
        answers = meanwhile(
            engine,
            door,
            *(lambda n=n: embed(door, input=["long " * 100 if n == 3 else f"{n}", "b"]) for n in range(12)),
        )
        for n, answer in enumerate(answers):
            if n == 3:
                assert answer.status_code == 400
                assert "maximum context length is 64 tokens" in answer.json()["error"]["message"]
            else:
                assert vectors_of(answer) == [expected(f"{n}"), expected("b")]


def test_a_call_whose_engine_dies_is_made_elsewhere() -> None:
    with (
        simulated_engine("tei", *SIZE, "--speed", "0.01") as dying,
        simulated_engine("tei", *SIZE, "--speed", "instant") as other,
        gateway(
            InstanceSettings(url=dying.url, name="dying"), InstanceSettings(url=other.url, name="other")
        ) as door,
    ):
        callers = [Caller(door.port).send(_post(f"text {n}")) for n in range(8)]
        dying.wait(batched=1)
        dying.kill()
        for caller in callers:
            reply = caller.reply()
            assert reply.status == 200, reply.body
            assert reply.headers["x-sage-instance"] == "other"
        assert vectors_of(embed(door, input="after")) == [expected("after")]


def test_a_caller_that_left_takes_only_its_own_texts_out_of_a_forming_call(
    door: InProcess, tei: SimulatedEngine
) -> None:
    tei.pause()
    try:
        busy = [Caller(door.port).send(_post(f"busy {n}")) for n in range(2)]
        door.until(lambda r: r.gateway.in_flight >= 1)
        stays = Caller(door.port).send(_post("stays"))
        leaves = Caller(door.port).send(_post("leaves"))
        also = Caller(door.port).send(_post("leaves"))
        gone = Caller(door.port).send(_post("gone"))
        door.until(lambda r: r.gateway.embeddings.batcher.jobs == 6)
        leaves.sock.close()
        gone.sock.close()
        door.until(lambda r: r.gateway.embeddings.batcher.jobs == 4)
    finally:
        tei.resume()
    replies = [caller.reply() for caller in (*busy, stays, also)]
    assert [reply.status for reply in replies] == [200] * 4
    seen = b"".join(request.body for request in tei.requests(8))
    assert b"gone" not in seen
    assert b"stays" in seen


def test_an_engine_is_told_when_nobody_wants_a_call_any_more(tei: SimulatedEngine, door: InProcess) -> None:
    before = tei.stats()["disconnects"]
    tei.faults(delay_ms=5000)
    caller = Caller(door.port).send(_post("alone"))
    door.until(lambda r: r.gateway.in_flight == 1)
    caller.sock.close()
    door.until(lambda r: r.gateway.in_flight == 0)
    tei.heal()
    tei.wait(disconnects=before + 1)
    assert batcher(door).jobs == 0


def test_limits_are_learned_from_a_refusal() -> None:
    with (
        simulated_engine("tei", *SIZE, "--max-client-batch-size", "8", "--speed", "instant") as engine,
        gateway(InstanceSettings(url=engine.url, name="tei")) as door,
    ):
        window = door.ask(lambda r: r.gateway.engines["tei"].window)
        window.limits = CallLimits()  # as if it had said nothing of itself
        texts = [f"text {n}" for n in range(100)]
        assert vectors_of(embed(door, input=texts)) == [expected(text) for text in texts]
        assert window.limits.texts == 8
        before = engine.stats()["requests"]
        assert vectors_of(embed(door, input=texts)) == [expected(text) for text in texts]
        assert engine.stats()["requests"] - before == 13


def test_a_body_too_large_for_the_engine_is_cut() -> None:
    with (
        simulated_engine("tei", *SIZE, "--payload-limit", "3000", "--speed", "instant") as engine,
        gateway(InstanceSettings(url=engine.url, name="tei")) as door,
    ):
        texts = [f"{n} " + "x" * 400 for n in range(20)]
        assert vectors_of(embed(door, input=texts)) == [expected(text) for text in texts]


def test_a_busy_engine_is_asked_again() -> None:
    with (
        simulated_engine("tei", *SIZE) as engine,
        gateway(InstanceSettings(url=engine.url, name="tei")) as door,
    ):
        engine.faults(status=429, count=2)
        assert vectors_of(embed(door, input="patience")) == [expected("patience")]


def test_a_text_that_fits_no_call_is_refused_before_any_engine_is_asked(
    tei: SimulatedEngine, door: InProcess
) -> None:
    before = tei.stats()["requests"]
    answer = embed(door, input=["ok", "x" * 2_100_000])
    assert answer.status_code == 400
    assert "2000000 bytes" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "input"
    assert tei.stats()["requests"] == before


def test_waiting_ends_with_its_time(tei: SimulatedEngine) -> None:
    instance = InstanceSettings(url=tei.url, name="tei", max_concurrent_requests=1)
    with gateway(instance, timeouts=TimeoutSettings(queue_s=0.3)) as door:
        tei.faults(delay_ms=3000)
        first = Caller(door.port).send(_post("first"))
        door.until(lambda r: r.gateway.in_flight == 1)
        late = embed(door, input="second")
        tei.heal()
        assert late.status_code == 429
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert "retry-after" in late.headers
        assert first.reply().status == 200


def test_a_full_queue_refuses_and_forgets(tei: SimulatedEngine) -> None:
    instance = InstanceSettings(url=tei.url, name="tei", max_concurrent_requests=1)
    with gateway(instance, limits=LimitSettings(queue_requests=1)) as door:
        tei.faults(delay_ms=2000)
        callers = [Caller(door.port).send(_post("0"))]
        door.until(lambda r: r.gateway.in_flight == 1)
        callers.append(Caller(door.port).send(_post("1")))
        door.until(lambda r: r.gateway.embeddings.in_line == 1)
        refused = embed(door, input="2")
        tei.heal()
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert [caller.reply().status for caller in callers] == [200, 200]


LONG = "long " * 700


@pytest.mark.parametrize("texts_a_call", [32, 2])
def test_a_caller_is_told_that_the_engine_cut_its_text(tei: SimulatedEngine, texts_a_call: int) -> None:
    settings = SchedulingSettings(embedding_batch_size=texts_a_call)
    with gateway(InstanceSettings(url=tei.url, name="tei"), scheduling=settings) as door:
        cut = embed(door, input=["short", LONG])
    with tei.client() as client:
        direct = client.post("/v1/embeddings", json={"model": MODEL, "input": ["short", LONG]})
    assert cut.headers["x-sage-truncated"] == "true"
    assert cut.json() == direct.json()


def test_a_long_text_that_fits_is_not_called_cut(door: InProcess) -> None:
    text = "word " * 400  # 2,000 bytes, 402 tokens
    answer = embed(door, input=[text, "short"])
    assert vectors_of(answer) == [expected(text), expected("short")]
    assert "x-sage-truncated" not in answer.headers


def test_cutting_can_be_refused(tei: SimulatedEngine) -> None:
    settings = SchedulingSettings(embedding_truncation="refuse")
    with gateway(InstanceSettings(url=tei.url, name="tei"), scheduling=settings) as door:
        answers = meanwhile(
            tei,
            door,
            *(lambda n=n: embed(door, input=LONG if n == 4 else f"fits {n} " + "x" * 600) for n in range(8)),
        )
    for n, answer in enumerate(answers):
        if n == 4:
            assert answer.status_code == 422
            assert "must have less than" in answer.json()["error"]["message"]
        else:
            assert vectors_of(answer) == [expected(f"fits {n} " + "x" * 600)]


def test_who_asks_for_cutting_itself_needs_no_notice(door: InProcess) -> None:
    answer = native(door, inputs=LONG, truncate=True)
    assert answer.status_code == 200
    assert "x-sage-truncated" not in answer.headers


def test_a_deadline_that_passes_while_texts_wait_is_told(tei: SimulatedEngine) -> None:
    instance = InstanceSettings(url=tei.url, name="tei", max_concurrent_requests=1)
    with gateway(instance) as door:
        tei.faults(delay_ms=3000)
        first = Caller(door.port).send(_post("first"))
        door.until(lambda r: r.gateway.in_flight == 1)
        headers = ("content-type: application/json", "x-sage-deadline-ms: 200")
        late = Caller(door.port).send(post("/v1/embeddings", _body("late"), *headers)).reply()
        tei.heal()
        assert (late.status, late.error["code"]) == (429, "deadline_exceeded")
        assert "deadline of 200 ms" in late.error["message"]
        assert first.reply().status == 200
