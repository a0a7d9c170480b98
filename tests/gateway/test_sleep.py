"""A sleeping engine is not ready: others serve its model, and where there is none, callers read that it sleeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, SchedulingSettings
from sage_inference.engines.sleep import sleeps_by_metrics
from sage_inference.gateway.api.status import status_document
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.probed import ProbedEngine, answer
from tests.support.simulators import SimulatedEngine, simulated_engine

OFTEN = HealthSettings(interval_s=0.05, timeout_s=1)
ASLEEP, READY = EngineState.ASLEEP, EngineState.READY
MODEL = "simulated-llm"


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[SimulatedEngine, SimulatedEngine]]:
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(simulated_engine("vllm", "--dev-mode", "--runner", "mixed", "--speed", "50"))
            for _ in range(2)
        )
        yield a, b


@pytest.fixture
def pair(engines: tuple[SimulatedEngine, SimulatedEngine]) -> Iterator[tuple[InProcess, SimulatedEngine]]:
    """A gateway before two engines, and the first of them."""
    with gateway(*engines, health=OFTEN) as g:
        yield g, engines[0]
    for engine in engines:
        order(engine, "/wake_up")


@pytest.fixture
def single(engines: tuple[SimulatedEngine, SimulatedEngine]) -> Iterator[tuple[InProcess, SimulatedEngine]]:
    with gateway(engines[0], health=OFTEN) as g:
        yield g, engines[0]
    order(engines[0], "/wake_up")


def order(engine: SimulatedEngine, path: str) -> None:
    with engine.client() as client:
        assert client.post(path).status_code == 200


def until(g: InProcess, state: EngineState, name: str = "e0") -> None:
    g.until(lambda r: r.gateway.engines[name].instance.state is state, 5)


def ask(
    g: InProcess,
    path: str = "/v1/chat/completions",
    *,
    stream: bool = False,
    model: str | None = MODEL,
    **fields: Any,
) -> httpx.Response:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", **fields}
    body |= {"stream": True} if stream else {}
    body |= {"model": model} if model else {}
    return httpx.post(g.url + path, json=body, timeout=20, trust_env=False, verify=False)


def served_by(responses: list[httpx.Response]) -> set[tuple[int, str | None]]:
    return {(each.status_code, each.headers.get("x-sage-instance")) for each in responses}


def test_a_sleeping_engine_takes_no_traffic_while_another_serves(
    pair: tuple[InProcess, SimulatedEngine],
) -> None:
    g, engine = pair
    order(engine, "/sleep?level=2")
    until(g, ASLEEP)
    answers = [ask(g, path, stream=s) for s in (False, True) for path in ("/v1/chat/completions",) * 6]
    answers += [ask(g, "/v1/embeddings") for _ in range(4)]
    assert served_by(answers) == {(200, "e1")}
    [status, _] = g.ask(lambda r: status_document(r.gateway))["instances"]
    assert status["state"] == "asleep"
    assert status["last_error"] == f"POST {engine.url}/wake_up wakes it"
    page = httpx.get(g.url + "/metrics", trust_env=False, verify=False).text
    assert 'sage_instance_asleep{instance="e0"} 1' in page
    order(engine, "/wake_up?tags=weights")  # a part of it: vLLM's metric says "awake" now
    assert served_by([ask(g) for _ in range(4)]) == {(200, "e1")}
    order(engine, "/wake_up")
    until(g, READY)
    assert (200, "e0") in served_by([ask(g) for _ in range(12)])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
@pytest.mark.parametrize("model", [MODEL, None])
def test_the_only_one_that_sleeps_is_named_at_once(
    single: tuple[InProcess, SimulatedEngine], path: str, model: str | None
) -> None:
    g, engine = single
    order(engine, "/sleep")
    until(g, ASLEEP)
    refused = ask(g, path, model=model)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    error = refused.json()["error"]
    assert error["code"] == "no_healthy_instance"
    assert "asleep (on e0); POST /wake_up" in error["message"]
    ready = httpx.get(g.url + "/health/ready", trust_env=False, verify=False)
    assert (ready.status_code, ready.json()["status"]) == (503, "every instance is asleep")
    assert ready.json()["asleep"] == ["e0"]
    order(engine, "/wake_up")
    until(g, READY)
    assert ask(g, path, model=model).status_code == 200


ROUTES = [("/v1/chat/completions", False), ("/v1/chat/completions", True), ("/v1/embeddings", False)]


@pytest.mark.parametrize(("path", "stream"), ROUTES)
def test_what_waits_on_one_that_fell_asleep_goes_to_another(
    engines: tuple[SimulatedEngine, SimulatedEngine], path: str, stream: bool
) -> None:
    seldom, in_turn = HealthSettings(interval_s=0.4), SchedulingSettings(policy="round_robin")
    with gateway(*engines, health=seldom, scheduling=in_turn) as g, ThreadPoolExecutor() as pool:
        moved = 0
        while not moved:  # else a probe came between the two
            until(g, READY)
            order(engines[0], "/sleep")
            try:
                asked = [pool.submit(ask, g, path, stream=stream) for _ in range(4)]
                assert served_by([each.result(10) for each in asked]) == {(200, "e1")}
            finally:
                order(engines[0], "/wake_up")
            moved = g.ask(lambda r: r.gateway.scheduler.rates.moved)


@pytest.mark.parametrize("mode", ["", "?mode=abort", "?level=2"])
def test_streams_that_falling_asleep_ends_are_aborted_and_it_serves_again_when_it_wakes(
    single: tuple[InProcess, SimulatedEngine], mode: str
) -> None:
    """vLLM aborts running requests when it is put to sleep, unless ``mode`` is ``keep``."""
    g, engine = single
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, g, stream=True, max_tokens=4000, ignore_eos=True) for _ in range(8)]
        engine.wait(running=8)
        order(engine, f"/sleep{mode}")
        for each in asked:
            text = each.result(10).text
            assert '"finish_reason":"abort"' in text
            assert text.endswith("data: [DONE]\n\n")
    assert g.ask(lambda r: r.gateway.stats.engine_failures) == 8
    until(g, ASLEEP)
    order(engine, "/wake_up")
    until(g, READY)
    assert ask(g).status_code == 200


@pytest.mark.parametrize(("path", "stream"), ROUTES)
def test_what_waits_on_the_only_one_that_fell_asleep_is_answered(
    single: tuple[InProcess, SimulatedEngine], path: str, stream: bool
) -> None:
    g, engine = single
    with ThreadPoolExecutor() as pool:
        order(engine, "/sleep")  # and it is asked before a probe, or refused by what a probe found
        got = pool.submit(ask, g, path, stream=stream).result(10)
    assert got.status_code == 503
    assert "asleep" in got.json()["error"]["message"]
    g.until(lambda r: r.gateway.in_flight == 0)


class Metered(ProbedEngine):
    """A vLLM without development mode: only its metrics say that it sleeps."""

    states: tuple[int, ...] = (1,)  # of each engine behind the server, 1 where it is awake
    is_sleeping: bytes | None = None

    def other(self, path: str) -> bytes:
        if path == "/is_sleeping" and self.is_sleeping is not None:
            return self.is_sleeping
        if path != "/metrics":
            return super().other(path)
        lines = [
            f'vllm:engine_sleep_state{{engine="{n}",model_name="m}}",sleep_state="{name}"}} {float(value)}'
            for n, awake in enumerate(self.states)
            for name, value in (("awake", awake), ("weights_offloaded", 1 - awake), ("discard_all", 0))
        ]
        return answer("200 OK", None) if not lines else _text("\n".join(lines) + "\n")


def _text(page: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(page)}\r\n\r\n{page}".encode()


VLLM = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "vllm"}]}


@pytest.mark.parametrize("sleeping", [(0,), (1, 0), (0, 0, 0)])
def test_where_only_the_metric_tells_one_of_its_engines_is_enough(sleeping: tuple[int, ...]) -> None:
    with Metered(models=VLLM) as engine, gateway(engine, health=OFTEN) as g:
        until(g, READY)
        engine.states = sleeping
        until(g, ASLEEP)
        engine.states = tuple(1 for _ in sleeping)
        until(g, READY)
        assert engine.asked.count("/is_sleeping") == 1  # it does not have it, and is not asked again


@pytest.mark.parametrize(
    "said",
    [answer("200 OK", {"sleeping": True}), answer("200 OK", "yes"), answer("401 Unauthorized"), _text("{")],
)
def test_an_answer_that_is_none_counts_for_nothing(said: bytes) -> None:
    with Metered(models=VLLM) as engine:
        engine.is_sleeping = said
        with gateway(engine, health=OFTEN) as g:
            until(g, READY)
            assert engine.asked.count("/is_sleeping") == 1


def test_what_was_known_holds_while_it_does_not_tell() -> None:
    with Metered(models=VLLM) as engine:
        engine.is_sleeping = answer("200 OK", {"is_sleeping": True})
        with gateway(engine, health=OFTEN) as g:
            until(g, ASLEEP)
            engine.is_sleeping = answer("500 Internal Server Error")
            probes = engine.probes
            g.until(lambda _: engine.probes > probes + 3)
            assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is ASLEEP


def test_an_engine_that_knows_no_sleep_is_not_asked() -> None:
    with ProbedEngine() as engine, gateway(engine, health=OFTEN) as g:
        g.until(lambda _: engine.probes > 4)
        assert not {"/is_sleeping", "/metrics"} & set(engine.asked)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"", None),
        (b'vllm:engine_sleep_state{sleep_state="weights_offloaded"} 1.0\n', None),
        (b'vllm:engine_sleep_state{sleep_state="awake"} 1.0\n', False),
        (b'# HELP\nvllm:engine_sleep_state{engine="0",sleep_state="awake",model_name="a,b"} 0\n', True),
        (
            b'vllm:engine_sleep_state{model_name="sleep_state=\\"awake\\"",sleep_state="discard_all"} 0\n',
            None,
        ),
        (b'vllm:engine_sleep_state{sleep_state="awake"} NaN\n', False),
    ],
)
def test_what_a_page_of_metrics_says(page: bytes, said: bool | None) -> None:
    assert sleeps_by_metrics(page) is said


NOTHING: dict[str, Any] = {"object": "list", "data": []}


def test_an_engine_that_lists_no_model_is_not_ready_until_it_does() -> None:
    with ProbedEngine(models=NOTHING) as engine, gateway(engine, health=OFTEN) as g:
        g.until(lambda _: engine.probes > 2)
        [status] = g.ask(lambda r: status_document(r.gateway))["instances"]
        assert (status["state"], status["last_error"]) == ("starting", "lists no model yet")
        assert httpx.get(g.url + "/health/ready", trust_env=False, verify=False).status_code == 503
        for model in ("m", None):
            refused = ask(g, model=model)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert "lists no model yet: e0" in json.loads(refused.content)["error"]["message"]
        engine.models = VLLM
        until(g, READY)
        engine.models = NOTHING  # it was READY: what it lists is looked at every 30 s
        assert g.ask(lambda r: r.gateway.registry.models()) == ["m"]


def test_an_embedding_engine_that_wakes_is_compared_before_it_serves(
    engines: tuple[SimulatedEngine, SimulatedEngine],
) -> None:
    """Its vectors are not those of the other that has its model's name."""
    first = engines[0]
    with simulated_engine(
        "vllm", "--dev-mode", "--runner", "pooling", "--model", MODEL, "--dimension", "8"
    ) as odd:
        order(odd, "/sleep")
        with gateway(first, InstanceSettings(url=odd.url, name="e1"), health=OFTEN) as g:
            until(g, READY, "e0")
            until(g, ASLEEP, "e1")
            order(odd, "/wake_up")
            g.until(lambda r: r.gateway.engines["e1"].instance.state is not ASLEEP, 5)
            status = g.ask(lambda r: status_document(r.gateway))["instances"][1]
            assert status["state"] == "ejected"
            assert "dimensions" in status["last_error"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_what_waits_for_a_slot_of_the_only_one_is_answered_when_it_sleeps(
    engines: tuple[SimulatedEngine, SimulatedEngine], path: str
) -> None:
    only = InstanceSettings(url=engines[0].url, name="e0", kind="mixed", max_concurrent_requests=1)
    with gateway(only, health=HealthSettings(interval_s=0.4)) as g, ThreadPoolExecutor() as pool:
        order(engines[0], "/sleep")
        try:
            asked = [pool.submit(ask, g, path) for _ in range(4)]
            answers = [each.result(10) for each in asked]
        finally:
            order(engines[0], "/wake_up")
        assert [each.status_code for each in answers] == [503] * 4
        assert all("asleep" in each.json()["error"]["message"] for each in answers)
        g.until(lambda r: r.gateway.in_flight == r.gateway.scheduler.queued == 0)
