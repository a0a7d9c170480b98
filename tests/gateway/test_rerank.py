"""Rerank routes before a TEI: translated both ways, call by call; the shapes of vLLM and TEI go through as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import InstanceSettings, LoggingSettings, SchedulingSettings
from sage_inference.gateway.relay.rerank import RerankExchange
from sage_inference.types import EngineState
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.listing import ListingEngine, Reply
from tests.support.replay import FIXTURES
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw
from tests.support.simulators import simulated_engine
from tests.support.tei import FakeTEI, ranked, refusal, score
from tests.support.wire import Caller, post

CLIENT = httpx.Client(trust_env=False, timeout=20)
OPENAI_SHAPED = ("/v1/rerank", "/v2/rerank", "/rerank")
DOCUMENTS = ["d 5", "d 900", "d 30"]
PLACES = [1, 2, 0]  # of them, the best first


def instances(*engines: RogueEngine) -> list[InstanceSettings]:
    return [InstanceSettings(url=engine.url, name=f"e{place}") for place, engine in enumerate(engines)]


def ready(g: InProcess) -> InProcess:
    g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
    return g


def rerank(g: InProcess, documents: Sequence[Any], path: str = "/v1/rerank", **fields: Any) -> httpx.Response:
    body = {"model": "m", "query": "q", "documents": documents, **fields}
    return CLIENT.post(g.url + path, json=body)


def places(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [one["index"] for one in answer.json()["results"]]


def best_first(documents: Sequence[str]) -> list[int]:
    return sorted(range(len(documents)), key=lambda at: -score(documents[at]))


def nothing_is_held(g: InProcess) -> None:
    g.until(lambda r: r.gateway.in_flight == 0 and r.gateway.scheduler.queued == 0)


def test_each_dialect_gets_its_own_answer() -> None:
    with FakeTEI() as engine, gateway(*instances(engine)) as g:
        ready(g)
        for path in OPENAI_SHAPED:
            answer = rerank(g, DOCUMENTS, path, return_documents=True)
            assert places(answer) == PLACES
            document = answer.json()
            assert document["model"] == "m"
            assert document["object"] == "list"
            assert document["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
            assert document["id"] == answer.headers["x-request-id"]
            assert document["meta"]["api_version"]["version"] == ("2" if "v2" in path else "1")
            assert document["meta"]["billed_units"] == {"search_units": 1}
            assert document["results"][0] == {
                "index": 1,
                "relevance_score": 0.9,
                "document": {"text": "d 900"},
            }
        assert [
            ("document" in rerank(g, DOCUMENTS, path).json()["results"][0]) for path in OPENAI_SHAPED
        ] == [
            True,
            False,
            True,
        ]
        assert all(request.startswith(b"POST /rerank HTTP/1.1\r\n") for request in engine.requests)
        assert engine.calls[0] == {"query": "q", "texts": DOCUMENTS, "truncate": True}


@pytest.mark.parametrize("path", OPENAI_SHAPED)
def test_more_documents_than_a_call_takes_are_split_and_merged(path: str) -> None:
    documents = [f"d {(at * 37) % 101}" for at in range(100)]
    with FakeTEI(batch=32) as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert places(rerank(g, documents, path)) == best_first(documents)
        assert [len(call["texts"]) for call in engine.calls] == [32, 32, 32, 4]
        top = rerank(g, documents, path, top_n=7)
        assert places(top) == best_first(documents)[:7]
        assert top.json()["usage"]["total_tokens"] == 100
        assert top.json()["meta"]["billed_units"]["search_units"] == 1
        assert g.ask(lambda r: dict(r.gateway.stats.outcomes)) == {(path, 200): 2}
        explained = f"{g.url}/admin/decisions/{top.headers['x-request-id']}"
        attempts = CLIENT.get(explained, headers=ADMIN).json()["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["done"] * 4
        nothing_is_held(g)


def test_a_call_has_no_more_bytes_than_the_engine_takes() -> None:
    documents = ["x" * 700_000 + f" {at}" for at in range(5)]
    with FakeTEI() as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert places(rerank(g, documents, return_documents=False)) == [4, 3, 2, 1, 0]
        assert [len(call["texts"]) for call in engine.calls] == [2, 2, 1]


@pytest.mark.parametrize("status", ["422 Unprocessable Entity", "413 Payload Too Large"])
def test_a_limit_that_a_refusal_reports_is_kept(status: str) -> None:
    documents = [f"d {at}" for at in range(20)]
    with FakeTEI(batch=8, reported=32) as engine, gateway(*instances(engine)) as g:
        engine.bad_batch = status
        ready(g)
        assert places(rerank(g, documents)) == list(reversed(range(20)))
        assert [len(call["texts"]) for call in engine.calls] == [20, 8, 8, 4]


def test_a_refusal_that_allows_nothing_is_the_callers() -> None:
    answers = [refusal("batch size 3 > maximum allowed batch size 0"), ranked]
    with FakeTEI(*answers) as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert rerank(g, DOCUMENTS).status_code == 422
        assert places(rerank(g, DOCUMENTS)) == PLACES


def test_calls_of_one_request_go_to_any_instance_and_survive_the_loss_of_one() -> None:
    documents = [f"d {at}" for at in range(90)]
    reset: Answer = lambda wire: wire.reset()  # noqa: E731
    with FakeTEI(ranked, reset, ranked, batch=10) as a, FakeTEI(batch=20) as b:
        with gateway(*instances(a, b)) as g:
            ready(g)
            for _ in range(3):
                assert places(rerank(g, documents)) == list(reversed(range(90)))
            assert all(len(call["texts"]) <= 10 for call in a.calls)
            assert a.requests
            assert b.requests
            nothing_is_held(g)


def test_many_callers_at_once_get_their_own() -> None:
    with FakeTEI(batch=3) as engine, gateway(*instances(engine)) as g:
        ready(g)

        def one(caller: int) -> bool:
            documents = [f"{caller} d {(at * caller) % 17}" for at in range(1, 11)]
            found = rerank(g, documents).json()["results"]
            return [one["document"]["text"] for one in found] == [
                documents[at] for at in best_first(documents)
            ]

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(one, range(1, 40)))
        nothing_is_held(g)


ERRORS: list[tuple[Answer, int, str]] = [
    (refusal("Model is overloaded", "Overloaded", "429 Too Many Requests"), 429, "Model is overloaded"),
    (refusal("`texts` cannot be empty", "Empty", "400 Bad Request"), 400, "`texts` cannot be empty"),
    (refusal("Backend error: score is NaN", "Backend", "424 Failed Dependency"), 424, "score is NaN"),
    (refusal("`inputs` must have less than 512 tokens. Given: 700"), 422, "less than 512 tokens"),
    (ok("Failed to parse the request body as JSON", status="400 Bad Request"), 400, "Failed to parse"),
    (ok("", status="401 Unauthorized"), 401, "401"),
    (ok("", status="500 Internal Server Error"), 500, "500"),
]


def test_the_engines_error_keeps_its_status_and_is_found_by_clients() -> None:
    cases = [(path, *error) for error in ERRORS for path in OPENAI_SHAPED]
    answers = [answer for _, wrong, _, _ in cases for answer in (ranked, wrong)]
    with FakeTEI(*answers, batch=2) as engine, gateway(*instances(engine)) as g:
        ready(g)
        for path, _, status, words in cases:
            refused = rerank(g, DOCUMENTS, path)  # its second call fails
            assert refused.status_code == status
            document = refused.json()
            assert words in document["message"]
            assert document["error"]["message"] == document["message"]
        nothing_is_held(g)


BAD: list[Answer] = [
    ok("[]"),
    ok("no JSON"),
    ok('{"results":[]}'),
    ok('[{"index":0,"score":0.1},{"index":1,"score":null},{"index":2,"score":1}]'),
    ok('[{"index":0,"score":0.1},{"index":0,"score":1},{"index":2,"score":1}]'),
    ok('[{"index":0,"score":0.1}]' + " " * (2 << 20)),
    ok(b"\x1f\x8bnothing", "content-encoding: gzip"),
    ok(b"[]", "content-encoding: br"),
    ok("[]", "location: /elsewhere", status="302 Found"),
    raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
]


def test_an_answer_that_is_no_ranking_is_a_502_and_the_next_request_is_served() -> None:
    answers = [answer for bad in BAD for answer in (bad, ranked)]
    with FakeTEI(*answers) as engine, gateway(*instances(engine)) as g:
        ready(g)
        for _ in BAD:
            refused = rerank(g, DOCUMENTS)
            assert refused.status_code == 502
            assert "instance e0 answered" in refused.json()["message"]
            assert places(rerank(g, DOCUMENTS)) == PLACES
        nothing_is_held(g)


def test_a_long_answer_a_compressed_one_and_one_in_chunks_are_read() -> None:
    def padded(wire: Wire) -> None:
        body = b"[" + b" " * 200_000 + _ranks(wire)[1:]
        ok(body)(wire)

    def compressed(wire: Wire) -> None:
        ok(gzip.compress(_ranks(wire)), "content-encoding: gzip")(wire)

    def chunked(wire: Wire) -> None:
        body = b"".join(chunk(bytes([byte])) for byte in _ranks(wire)) + b"0\r\n\r\n"
        raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)(wire)

    with FakeTEI(padded, compressed, chunked) as engine, gateway(*instances(engine)) as g:
        ready(g)
        for _ in range(3):
            assert places(rerank(g, DOCUMENTS)) == PLACES
        assert all(b"accept-encoding: identity\r\n" in head for head in engine.requests)
        assert not any(b"gzip" in head for head in engine.requests)


def _ranks(wire: Wire) -> bytes:
    texts = json.loads(wire.body)["texts"]
    return json.dumps([{"index": at, "score": score(text)} for at, text in enumerate(texts)]).encode()


def test_what_cannot_be_translated_is_refused_before_the_engine_is_asked() -> None:
    with FakeTEI() as engine, gateway(*instances(engine)) as g:
        ready(g)
        wrong: tuple[dict[str, Any], ...] = (
            {"documents": []},
            {"documents": [3]},
            {"top_n": "x"},
            {"query": 3},
            {"documents": None},
        )
        for fields in wrong:
            refused = rerank(g, **{"documents": DOCUMENTS, **fields})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == next(iter(fields))
        assert CLIENT.post(f"{g.url}/v1/rerank", json={"query": "q", "texts": ["a"]}).status_code == 400
        assert engine.requests == []
        assert places(rerank(g, DOCUMENTS)) == PLACES


def test_an_alias_and_a_missing_model_mean_the_served_one() -> None:
    with FakeTEI() as engine, gateway(*instances(engine), aliases={"rerank-v3.5": "m"}) as g:
        ready(g)
        answer = rerank(g, DOCUMENTS, model="rerank-v3.5")
        assert (places(answer), answer.json()["model"]) == (PLACES, "m")
        body = {"query": "q", "documents": DOCUMENTS}
        for path in OPENAI_SHAPED:
            assert places(CLIENT.post(g.url + path, json=body)) == PLACES
        unknown = rerank(g, DOCUMENTS, model="x")
        assert unknown.status_code == 404
        assert unknown.json()["message"] == unknown.json()["error"]["message"]


def test_a_caller_that_leaves_between_two_calls_is_told_to_the_engine() -> None:
    waits: Answer = lambda wire: wire.wait_for_peer_to_leave()  # noqa: E731
    with FakeTEI(ranked, waits, batch=2) as engine, gateway(*instances(engine)) as g:
        ready(g)
        body = json.dumps({"model": "m", "query": "q", "documents": DOCUMENTS}).encode()
        with Caller(g.port) as caller:
            caller.send(post("/v1/rerank", body))
            engine.arrived.get(timeout=10)
            engine.arrived.get(timeout=10)
        engine.left.get(timeout=10)
        nothing_is_held(g)


@pytest.mark.parametrize("path", OPENAI_SHAPED)
def test_vllms_own_shapes_go_through_byte_for_byte(path: str) -> None:
    recorded = json.loads((FIXTURES / "vllm" / "152_rerank_v2_top_n.json").read_text())
    body = json.dumps(recorded["request"]["body"] | {"model": "m"}, indent=1).encode()
    answered: str = recorded["response"]["body"]
    with RogueEngine(ok(answered), routes=["/v1/rerank", "/v2/rerank", "/rerank", "/score"]) as engine:
        with FakeTEI(model="other") as tei, gateway(*instances(engine, tei)) as g:
            ready(g)
            headers = {"content-type": "application/json", "accept-encoding": "gzip"}
            answer = CLIENT.post(g.url + path, content=body, headers=headers)
            assert answer.content == answered.encode()
            assert engine.requests[0].partition(b"\r\n\r\n")[2] == body
            assert engine.requests[0].startswith(f"POST {path} HTTP/1.1\r\n".encode())
            assert b"accept-encoding: gzip\r\n" in engine.requests[0]


def test_teis_own_shape_goes_through_byte_for_byte() -> None:
    recorded = json.loads((FIXTURES / "tei" / "042_rerank.json").read_text())
    bodies = [
        json.dumps(recorded["request"]["body"], indent=1).encode(),
        b'{"query": "q", "texts": ["a","b"], "x": [1]}',
    ]
    answered: str = recorded["response"]["body"]
    with FakeTEI(ok(answered, "x-compute-tokens: 4")) as engine, gateway(*instances(engine)) as g:
        ready(g)
        for place, body in enumerate(bodies):
            answer = CLIENT.post(
                f"{g.url}/rerank", content=body, headers={"content-type": "application/json"}
            )
            assert (answer.content, answer.headers["x-compute-tokens"]) == (answered.encode(), "4")
            assert engine.requests[place].partition(b"\r\n\r\n")[2] == body
        refused = refusal("batch size 33 > maximum allowed batch size 32")
        engine.answers = [refused]
        answer = CLIENT.post(f"{g.url}/rerank", json={"query": "q", "texts": ["a"] * 33})
        assert answer.status_code == 422
        assert set(answer.json()) == {"error", "error_type"}


def test_a_vllm_and_a_tei_of_one_model_are_each_asked_in_their_own_words() -> None:
    def vllm(wire: Wire) -> None:
        asked = json.loads(wire.body)
        assert asked["documents"] == documents
        ok(json.dumps({"id": "vllm", "results": [{"index": at} for at in best_first(documents)]}))(wire)

    documents = [f"d {at}" for at in range(7)]
    reset: Answer = lambda wire: wire.reset()  # noqa: E731
    with RogueEngine(vllm, routes=["/v1/rerank", "/v2/rerank", "/rerank"]) as a:
        with FakeTEI(ranked, reset, ranked, batch=3) as b, gateway(*instances(a, b)) as g:
            ready(g)
            answers = [rerank(g, documents) for _ in range(8)]
            assert all(places(answer) == best_first(documents) for answer in answers)
            assert a.requests
            assert b.requests


def test_both_kinds_are_listed_as_rerankers() -> None:
    with FakeTEI() as engine, gateway(*instances(engine)) as g:
        ready(g)
        (card,) = CLIENT.get(f"{g.url}/v1/models").json()["data"]
        assert (card["type"], card["capabilities"][0]) == ("rerank", "rerank")


def test_empty_documents_do_not_spoil_the_others() -> None:
    documents = ["d 5", "", {"text": ""}, "d 900"]
    with simulated_engine("tei", "--model", "m", "--model-type", "reranker", "--speed", "instant") as engine:
        with gateway(InstanceSettings(url=engine.url, name="e0")) as g:
            ready(g)
            answer = rerank(g, documents)
            assert sorted(places(answer)) == [0, 1, 2, 3]
            shown = {one["index"]: one["document"] for one in answer.json()["results"]}
            assert (shown[1], shown[2]) == ({"text": ""}, {"text": ""})


@pytest.mark.parametrize("under", ["/v1", ""])
def test_infinitys_only_route_is_asked_under_all_three_names(under: str) -> None:
    def reranks(path: str, document: dict[str, Any]) -> Reply:
        assert path == f"{under}/rerank"
        found = [{"index": at, "relevance_score": score(document["documents"][at])} for at in PLACES]
        return 200, {"object": "rerank", "results": found}

    card = {"capabilities": ["rerank"]}
    routes = [f"{under}/embeddings", f"{under}/rerank"]
    with ListingEngine("m", post=reranks, owner="infinity", routes=routes, card=card, under=under) as engine:
        with gateway(InstanceSettings(url=engine.url, name="e0")) as g:
            ready(g)
            for path in OPENAI_SHAPED:
                answer = rerank(g, DOCUMENTS, path)
                assert places(answer) == PLACES
                assert answer.json()["object"] == "rerank"


def test_calls_wait_here_for_the_permits_that_texts_take_there() -> None:
    """The engine gives a permit to each text, and refuses a call that cannot have all of its own."""
    options = ("--model", "m", "--model-type", "reranker", "--max-concurrent-requests", "64")
    documents = [f"d {at}" for at in range(40)]
    with simulated_engine("tei", *options) as engine:
        with gateway(InstanceSettings(url=engine.url, name="e0")) as g, ThreadPoolExecutor(24) as pool:
            ready(g)
            answers = list(pool.map(lambda _: rerank(g, documents), range(48)))
            assert [answer.status_code for answer in answers] == [200] * 48
            assert all(sorted(places(answer)) == list(range(40)) for answer in answers)
            nothing_is_held(g)


def test_a_call_leaves_permits_to_others_however_many_texts_it_may_have() -> None:
    documents = [f"d {at}" for at in range(100)]
    with FakeTEI(batch=1000, max_concurrent_requests=128) as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert places(rerank(g, documents)) == list(reversed(range(100)))
        assert [len(call["texts"]) for call in engine.calls] == [32, 32, 32, 4]
        assert g.ask(lambda r: r.gateway.registry.instances["e0"].max_concurrent_requests) == 4


@pytest.mark.parametrize("path", OPENAI_SHAPED)
def test_a_compressed_request_is_translated_like_a_plain_one(path: str) -> None:
    body = json.dumps({"model": "m", "query": "q", "documents": DOCUMENTS}).encode()
    with FakeTEI() as engine, gateway(*instances(engine)) as g:
        ready(g)
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        assert places(CLIENT.post(g.url + path, content=gzip.compress(body), headers=headers)) == PLACES
        assert b"content-encoding" not in engine.requests[0].lower()


def drain_in_its_first_call(g: InProcess, engine: FakeTEI, caller: Caller, documents: list[str]) -> None:
    body = json.dumps({"model": "m", "query": "q", "documents": documents, "return_documents": False})
    caller.send(post("/v1/rerank", body.encode(), "x-request-id: mine"))
    engine.arrived.get(timeout=10)
    assert g.ask(lambda r: r.fleet.drain("e0"))
    engine.go.set()


def held_and_ranked(wire: Wire) -> None:
    assert wire.engine.go.wait(20)
    ranked(wire)


@pytest.mark.parametrize("first", [held_and_ranked, None])
def test_an_instance_that_drains_finishes_what_it_began(first: Answer | None) -> None:
    documents = [f"d {at}" for at in range(50)]

    def too_many(wire: Wire) -> None:
        assert wire.engine.go.wait(20)
        refusal("batch size 10 > maximum allowed batch size 5")(wire)

    with FakeTEI(first or too_many, ranked, batch=10) as engine, gateway(*instances(engine)) as g:
        with Caller(g.port) as caller, Caller(g.port) as late:
            drain_in_its_first_call(ready(g), engine, caller, documents)
            reply = caller.reply()
            assert reply.status == 200
            assert [one["index"] for one in json.loads(reply.body)["results"]] == list(reversed(range(50)))
            body = json.dumps({"model": "m", "query": "q", "documents": ["d"]}).encode()
            assert late.send(post("/v1/rerank", body)).reply().status == 503
            assert len(engine.calls) == (5 if first else 11)
            explained = CLIENT.get(f"{g.url}/admin/decisions/mine", headers=ADMIN).json()["attempts"]
            assert explained[-1]["reason"] == "finishes what it began"
            nothing_is_held(g)
            assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.DRAINING


def test_what_is_left_goes_to_an_instance_that_takes_work_when_the_first_drains() -> None:
    documents = [f"d {at}" for at in range(50)]
    with FakeTEI(held_and_ranked, batch=10) as a, FakeTEI(batch=10) as b, gateway(*instances(a)) as g:
        ready(g)
        g.ask(lambda r: r.fleet.add(InstanceSettings(url=b.url, name="e1")))
        ready(g)
        with Caller(g.port) as caller:
            body = json.dumps({"model": "m", "query": "q", "documents": documents}).encode()
            b.answers = [held_and_ranked]
            caller.send(post("/v1/rerank", body))
            g.until(lambda r: a.requests or b.requests)
            first, name, other = (a, "e0", b) if a.requests else (b, "e1", a)
            assert g.ask(lambda r: r.fleet.drain(name))
            a.go.set()
            b.go.set()
            assert caller.reply().status == 200
            assert (len(first.calls), len(other.calls)) == (1, 4)


def test_one_that_drains_and_fails_loses_the_request_with_a_reason() -> None:
    reset: Answer = lambda wire: wire.reset()  # noqa: E731
    with FakeTEI(held_and_ranked, reset, batch=10) as engine, gateway(*instances(engine)) as g:
        with Caller(g.port) as caller:
            drain_in_its_first_call(ready(g), engine, caller, [f"d {at}" for at in range(50)])
            assert caller.reply().status in (502, 503)
            nothing_is_held(g)


def test_a_caller_that_leaves_an_instance_that_drains_holds_nothing() -> None:
    def then(wire: Wire) -> None:
        wire.wait_for_peer_to_leave()

    with FakeTEI(held_and_ranked, then, batch=10) as engine, gateway(*instances(engine)) as g:
        with Caller(g.port) as caller:
            drain_in_its_first_call(ready(g), engine, caller, [f"d {at}" for at in range(50)])
            engine.arrived.get(timeout=10)
        engine.left.get(timeout=10)
        nothing_is_held(g)


def test_a_body_is_let_go_when_the_answer_to_it_begins() -> None:
    """Otherwise a caller that reads slowly would hold it, and it would count no more."""

    def begins(wire: Wire) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        wire.send(head + chunk(b'{"results":'))
        assert wire.engine.go.wait(20)
        wire.send(chunk(b"[]}") + b"0\r\n\r\n")

    def held(r: Any) -> int:
        running = [caller.running for caller in r.gateway.callers]
        return sum(len(one.body) + len(one.own_body) for one in running if isinstance(one, RerankExchange))

    body = json.dumps({"model": "m", "query": "q", "documents": ["d" * 100_000] * 3}).encode()
    with RogueEngine(begins, routes=["/v1/rerank"]) as vllm, FakeTEI() as tei:
        turns = SchedulingSettings(policy="round_robin")
        with gateway(*instances(vllm, tei), scheduling=turns) as g, Caller(g.port) as caller:
            ready(g)
            while (head := caller.send(post("/v1/rerank", body)).head()).headers["x-sage-instance"] != "e0":
                caller.take(int(head.headers["content-length"]))
            assert g.ask(lambda r: r.gateway.bodies.held) == g.ask(held) == 0
            vllm.go.set()
            assert caller.chunk() + caller.chunk() == b'{"results":[]}'


def test_the_access_log_has_the_bytes_of_the_callers_answer(caplog: pytest.LogCaptureFixture) -> None:
    log = LoggingSettings(access=True)
    with FakeTEI(batch=3) as engine, gateway(*instances(engine), logging=log) as g:
        ready(g)
        caplog.set_level("INFO", "sage_inference.access")
        lengths = [len(rerank(g, [f"d {at}" for at in range(count)]).content) for count in (2, 3, 10)]
        nothing_is_held(g)
        lines = [record for record in caplog.records if record.name == "sage_inference.access"]
        assert [vars(line).get("response_bytes") for line in lines] == lengths
