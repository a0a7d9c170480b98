"""Pairs of simulated vLLMs that really hand prompts over, behind the gateway."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.types import EngineState
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine
from tests.support.wire import Caller

NIXL = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
JSON = "content-type: application/json"
LONG = "word " * 24_000  # nearly a second of prefill
_VARIES = re.compile(r'"(id|created|system_fingerprint|cached_tokens)": ?("[^"]*"|\d+)')


class Pairs:
    """Engines by name (``p…``, ``d…``) and a gateway before them."""

    def __init__(self, engines: dict[str, SimulatedEngine], g: InProcess) -> None:
        self.engines = engines
        self.g = g

    def nothing_left(self) -> None:
        self.g.until(
            lambda r: (
                (r.gateway.in_flight, r.gateway.scheduler.queued) == (0, 0)
                and not any(i.load.pending_tokens for i in r.gateway.registry.instances.values())
            )
        )
        for engine in self.engines.values():
            if engine.process.poll() is None:
                engine.wait(running=0)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        with httpx.Client(base_url=self.g.url, trust_env=False, verify=False, timeout=60) as client:
            return client.post(path, json={"model": "m", **fields})

    def sum(self, figure: str, kind: str) -> int:
        return sum(e.stats()[figure] for name, e in self.engines.items() if name.startswith(kind))


@contextmanager
def pairs(*names: str, speed: str = "instant", slots: int = 0) -> Iterator[Pairs]:
    kinds = {"p": "prefilling", "d": "decoding", "g": "llm"}
    with ExitStack() as stack:
        args = ("--model", "m", "--speed", speed, "--kv-transfer-config", NIXL)
        engines = {name: stack.enter_context(simulated_engine("vllm", *args)) for name in names}
        entries = [
            InstanceSettings(url=e.url, name=name, kind=kinds[name[0]], max_concurrent_requests=slots)
            for name, e in engines.items()
        ]
        g = stack.enter_context(gateway(*entries, health=HealthSettings(interval_s=0.2)))
        g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
        yield Pairs(engines, g)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_pair_answers_as_one_engine_does(path: str, stream: bool) -> None:
    text = "Tell me of the sea and the ships upon it. " * 8
    what = {"messages": chat(text)} if "chat" in path else {"prompt": text}
    with pairs("p", "d", "g") as fleet:
        split = fleet.post(path, stream=stream, max_tokens=40, **what)
        with fleet.engines["g"].client() as client:
            alone = client.post(path, json={"model": "m", "stream": stream, "max_tokens": 40, **what})
        assert split.status_code == alone.status_code == 200
        assert _VARIES.sub("", split.text) == _VARIES.sub("", alone.text)
        assert fleet.engines["d"].stats()["prompts_fetched"] == 1
        assert fleet.engines["p"].stats()["prompts_held"] == 0


def test_many_at_once_are_all_handed_over_within_the_slots_of_both_sides() -> None:
    most = {"p": 0, "d": 0}
    stop = threading.Event()
    with pairs("p1", "p2", "d1", "d2", speed="20", slots=3) as fleet:

        def watch() -> None:
            while not stop.wait(0.005):
                for name, running in fleet.g.ask(
                    lambda r: [(n, e.instance.active_requests) for n, e in r.gateway.engines.items()]
                ):
                    most[name[0]] = max(most[name[0]], running)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(24) as crowd:
            texts = [f"Question {number}: " + "why " * 200 for number in range(72)]
            answers = list(
                crowd.map(
                    lambda text: fleet.post("/v1/chat/completions", messages=chat(text), max_tokens=20), texts
                )
            )
        stop.set()
        watcher.join()
        assert [answer.status_code for answer in answers] == [200] * 72
        assert {a.headers["x-sage-prefill-instance"] for a in answers} == {"p1", "p2"}
        assert {a.headers["x-sage-instance"] for a in answers} == {"d1", "d2"}
        assert fleet.sum("prompts_fetched", "d") == 72
        assert fleet.sum("generated_tokens", "p") == 72
        assert max(most.values()) <= 3
        fleet.nothing_left()


@pytest.mark.parametrize("victim", ["p1", "d1"])
def test_an_engine_that_is_killed_at_work_costs_no_caller_its_answer(victim: str) -> None:
    with pairs("p1", "p2", "d1", "d2", speed="4") as fleet, ThreadPoolExecutor(12) as crowd:
        # Plain ones: of a stream that has begun nothing can be repeated.
        asked = [
            crowd.submit(
                fleet.post, "/v1/chat/completions", messages=chat(f"{n} " + "word " * 3000), max_tokens=60
            )
            for n in range(24)
        ]
        fleet.engines[victim].wait(running=1)
        fleet.engines[victim].kill()
        assert [each.result().status_code for each in asked] == [200] * 24
        fleet.nothing_left()


def test_a_prompt_whose_engine_died_before_it_was_fetched_is_computed_by_the_decoding_one() -> None:
    """The only slot of the decoding side is taken while the prompts' engine goes."""
    with pairs("p", "d", speed="8", slots=1) as fleet, ThreadPoolExecutor(2) as crowd:
        first = crowd.submit(fleet.post, "/v1/completions", prompt="one", max_tokens=400, ignore_eos=True)
        fleet.engines["d"].wait(running=1)
        second = crowd.submit(fleet.post, "/v1/completions", prompt="two", max_tokens=4)
        fleet.g.until(lambda r: r.gateway.scheduler.queued == 1 and r.gateway.stats.handed_over == 2)
        fleet.engines["p"].kill()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        assert fleet.g.ask(lambda r: r.gateway.stats.handover_failures) == 1
        assert fleet.engines["d"].stats()["prompts_fetched"] == 1
        fleet.nothing_left()


@pytest.mark.parametrize("at", ["p", "d"])
def test_who_leaves_in_either_leg_ends_the_work_there(at: str) -> None:
    text = LONG if at == "p" else "word"
    with pairs("p", "d", speed="1") as fleet:
        with Caller(fleet.g.port) as caller:
            caller.chat(JSON, stream=True, messages=chat(text), max_tokens=5000, ignore_eos=True)
            fleet.engines[at].wait(running=1)
            if at == "d":
                assert caller.head().status == 200
                caller.chunk()
        fleet.engines[at].wait(disconnects=1, aborted=1, running=0, timeout_s=2)
        fleet.nothing_left()
        assert fleet.engines["p"].stats()["prompts_held"] == 0
        assert fleet.sum("requests", "d") == (at == "d")


def test_while_a_half_is_down_the_rule_holds_and_afterwards_the_pair_is_back() -> None:
    with pairs("p", "d") as fleet:
        fleet.engines["p"].faults(refuse=True)
        answer = fleet.post("/v1/chat/completions", messages=chat("hello"))
        assert (answer.status_code, answer.headers["x-sage-instance"]) == (200, "d")
        assert "x-sage-prefill-instance" not in answer.headers
        fleet.engines["p"].heal()
        fleet.g.until(lambda r: r.gateway.engines["p"].instance.state is EngineState.READY)
        again = fleet.post("/v1/chat/completions", messages=chat("hello"))
        assert again.headers["x-sage-prefill-instance"] == "p"


def test_responses_and_messages_are_done_by_one_instance() -> None:
    with pairs("p", "d") as fleet:
        for path, fields in (
            ("/v1/responses", {"input": "hello"}),
            ("/v1/messages", {"messages": chat("hello"), "max_tokens": 5}),
        ):
            answer = fleet.post(path, **fields)
            assert (answer.status_code, answer.headers["x-sage-instance"]) == (200, "d")
        assert fleet.engines["p"].stats()["requests"] == 0


def test_status_and_metrics_tell_of_the_pair() -> None:
    with (
        pairs("p", "d") as fleet,
        httpx.Client(base_url=fleet.g.url, trust_env=False, verify=False) as client,
    ):
        fleet.post("/v1/completions", prompt="hello").raise_for_status()
        status = client.get("/admin/status", headers=ADMIN).json()
        assert {i["name"]: i["kind"] for i in status["instances"]} == {"p": "prefilling", "d": "decoding"}
        assert status["requests"]["total"] == 1
        metrics = client.get("/metrics").text
        assert "sage_prompts_handed_over_total 1" in metrics
        assert "sage_prompt_handover_failures_total 0" in metrics
        assert json.loads(client.get("/v1/models").text)["data"][0]["id"] == "m"
