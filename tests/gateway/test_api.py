"""The routes the gateway answers itself: models, health, metrics, admin."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, HealthSettings, InstanceSettings, ServerSettings
from sage_inference.types import EngineState
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

FAST = HealthSettings(interval_s=0.1)


@contextlib.contextmanager
def client(g: InProcess, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=g.url, headers={**ADMIN, **headers}, trust_env=False, verify=False, timeout=10
    ) as found:
        yield found


def test_models_are_the_union_of_what_healthy_instances_report() -> None:
    with (
        RogueEngine(ok(), model="a") as a,
        RogueEngine(ok(), model="org/b") as b,
        gateway(a, b) as g,
        client(g) as c,
    ):
        assert [m["id"] for m in c.get("/v1/models").json()["data"]] == ["a", "org/b"]
        assert c.get("/v1/models/org/b").json()["owned_by"] == "rogue"
        missing = c.get("/v1/models/c")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
        assert "a, org/b" in missing.json()["error"]["message"]


def test_a_dead_instances_models_leave_the_list_and_come_back() -> None:
    with RogueEngine(ok(), model="a") as a, RogueEngine(ok(), model="b") as b:
        with gateway(a, b, health=FAST) as g, client(g) as c:
            b.refuse()
            g.until(lambda r: r.gateway.engines["e1"].instance.state is EngineState.EJECTED)
            assert [m["id"] for m in c.get("/v1/models").json()["data"]] == ["a"]
            b.listen_again()
            g.until(lambda r: r.gateway.engines["e1"].instance.state is EngineState.READY)
            assert len(c.get("/v1/models").json()["data"]) == 2


def test_aliases_are_listed_beside_what_they_name() -> None:
    with (
        RogueEngine(ok()) as engine,
        gateway(engine, aliases={"gpt-4o": "m", "dead": "x"}) as g,
        client(g) as c,
    ):
        assert [m["id"] for m in c.get("/v1/models").json()["data"]] == ["m", "gpt-4o"]
        assert c.get("/v1/models/gpt-4o").json()["root"] == "m"


def test_health_is_503_while_nothing_can_serve_but_live_is_200() -> None:
    with gateway() as g, client(g) as c:
        assert c.get("/health").status_code == 503
        assert c.get("/health/ready").status_code == 503
        assert c.get("/health/live").status_code == 200
    with RogueEngine(ok()) as engine, gateway(engine) as g, client(g) as c:
        assert c.get("/health").json()["instances"] == {"healthy": 1, "total": 1}


def test_health_is_open_and_all_else_needs_the_key() -> None:
    keys = (ApiKeySettings(key=Secret("k")),)
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=keys) as g, client(g) as c:
        assert c.get("/health").status_code == 200
        for path in ("/v1/models", "/v1/models/m", "/metrics", "/"):
            assert c.get(path).status_code == 401, path
            assert c.get(path, headers={"authorization": "Bearer k"}).status_code == 200, path


def test_every_answer_carries_a_request_id() -> None:
    with gateway() as g, client(g) as c:
        for path in ("/", "/health", "/v1/models", "/nope", "/admin/status", "/v1/chat/completions"):
            assert c.get(path).headers["x-request-id"].startswith("req-")
            assert c.get(path, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_metrics_count_what_happened() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, client(g) as c, Caller(g.port) as caller:
        for _ in range(3):
            caller.chat().reply()
        caller.chat(model="nope").reply()
        text = c.get("/metrics").text
        assert (
            'sage_requests_total{route="/v1/chat/completions",status="200",model="m",instance="e0",key=""} 3\n'
            in text
        )
        assert (
            'sage_requests_total{route="/v1/chat/completions",status="404",model="(other)",instance="",key=""} 1\n'
            in text
        )
        assert 'sage_errors_total{code="model_not_found"} 1\n' in text
        assert 'sage_time_to_first_byte_seconds_count{instance="e0"} 3\n' in text
        assert 'sage_instance_ready{instance="e0"} 1\n' in text
        assert 'sage_instance_pending_tokens{instance="e0"} 0\n' in text
        assert 'sage_queue_wait_seconds_count{priority="normal"} 0\n' in text


def test_the_time_to_a_first_token_is_that_of_streams_alone() -> None:
    """The metric has the first bytes of all."""
    events = raw(sse('{"choices":[]}', "[DONE]") + b"0\r\n\r\n")
    failed = ok(status="400 Bad Request")
    answers = (ok(), failed, ok(), events, events, failed)  # to three in one piece, and then three streams
    with RogueEngine(*answers) as engine, gateway(engine) as g, client(g) as c, Caller(g.port) as caller:

        def ttft_ms() -> float | None:
            g.until(lambda r: r.gateway.in_flight == 0)
            found: float | None = c.get("/admin/status").json()["instances"][0]["ttft_ms"]
            return found

        streams: list[float | None] = []
        for at in range(6):
            body = chat(stream=at > 2) if at != 2 else json.dumps({"model": "m", "input": [[1]]}).encode()
            caller.send(post("/v1/embeddings" if at == 2 else CHAT, body)).reply()
            streams.append(ttft_ms())
        assert streams[:3] == [None] * 3
        assert streams[3] is not None
        assert streams[5] == streams[4], "an error is no first token"
        assert 'sage_time_to_first_byte_seconds_count{instance="e0"} 6\n' in c.get("/metrics").text


def test_instances_are_added_drained_and_removed_at_run_time() -> None:
    with RogueEngine(ok(), model="n") as engine, gateway() as g, client(g) as c, Caller(g.port) as caller:
        added = c.post("/admin/instances", json={"url": engine.url, "name": "new", "kind": "llm"})
        assert (added.status_code, added.json()["name"]) == (201, "new")
        assert c.post("/admin/instances", json={"url": engine.url, "name": "new"}).status_code == 409
        g.until(lambda r: r.gateway.engines["new"].instance.state is EngineState.READY)
        assert caller.chat(model="n").reply().status == 200
        assert c.post("/admin/instances/new/drain").json() == {"ok": True}
        refused = caller.chat(model="n").reply()
        assert (refused.status, refused.error["code"]) == (503, "no_healthy_instance")
        assert c.delete("/admin/instances/new").json() == {"ok": True}
        assert c.delete("/admin/instances/new").status_code == 404
        assert c.get("/admin/instances").json() == {"instances": []}


def test_a_bad_instance_is_refused_with_the_field_at_fault() -> None:
    with gateway() as g, client(g) as c:
        wrong: list[Any] = [{}, {"url": 5}, {"url": "http://h:1", "kin": "llm"}, [], {"url": "ftp://h"}]
        for document in wrong:
            answer = c.post("/admin/instances", json=document)
            assert answer.status_code == 400, document
            assert answer.json()["error"]["message"]
        assert c.post("/admin/instances", content=b"{").status_code == 400


def test_the_policy_is_changed_at_run_time() -> None:
    with gateway() as g, client(g) as c:
        assert c.get("/admin/policy").json()["policy"] == "hybrid"
        assert c.put("/admin/policy", json={"policy": "round_robin"}).status_code == 200
        assert c.get("/admin/status").json()["policy"] == "round_robin"
        refused = c.put("/admin/policy", json={"policy": "best"})
        assert refused.status_code == 400
        assert "round_robin" in refused.json()["error"]["message"]


def test_browsers_of_configured_origins_get_cors_headers_on_every_route() -> None:
    server = ServerSettings(cors_origins=("https://chat.example",))
    with RogueEngine(ok()) as engine, gateway(engine, server=server) as g:
        with client(g, origin="https://chat.example") as c:
            relayed = c.post("/v1/chat/completions", json={"model": "m", "messages": []})
            assert relayed.headers["access-control-allow-origin"] == "https://chat.example"
            assert c.get("/v1/models").headers["access-control-allow-origin"] == "https://chat.example"
            asks = {
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            }
            assert c.options("/v1/chat/completions", headers=asks).status_code == 200


def test_a_request_that_comes_back_to_its_gateway_is_508() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat().reply()
        via = next(line for line in engine.requests[0].decode().split("\r\n") if line.startswith("via: "))
        reply = caller.chat(via).reply()
        assert (reply.status, reply.error["code"]) == (508, "loop_detected")
        assert Caller(g.port).chat("via: 1.1 somebody-else").reply().status == 200


def test_a_reload_adds_and_removes_instances_and_says_which() -> None:
    with RogueEngine(ok("old")) as old, RogueEngine(ok("new")) as new, gateway(old) as g, client(g) as c:
        added = InstanceSettings(url=new.url, name="new", kind="llm")
        g.settings_to_load = replace(g.settings_to_load, instances=(*g.settings_to_load.instances, added))
        assert c.post("/admin/reload").json() == {
            "ok": True,
            "added": ["new"],
            "removed": [],
            "changed": [],
            "settings": [],
            "needs_restart": [],
            "address": "http://127.0.0.1:8000",
        }
        g.until(lambda r: r.gateway.engines["new"].instance.state is EngineState.READY)
        g.settings_to_load = replace(g.settings_to_load, instances=(added,))
        assert c.post("/admin/reload").json()["removed"] == ["e0"]
        with Caller(g.port) as caller:
            assert caller.chat().reply().body == b"new"


def test_a_changed_instance_serves_on_without_a_gap() -> None:
    with RogueEngine(ok("good")) as engine, gateway(engine) as g, client(g) as c, Caller(g.port) as caller:
        old = g.settings_to_load.instances[0]
        changed = replace(old, max_concurrent_requests=7)
        g.settings_to_load = replace(g.settings_to_load, instances=(changed,))
        assert c.post("/admin/reload").json()["changed"] == ["e0"]
        assert caller.chat().reply().body == b"good"
        assert g.ask(lambda r: r.gateway.registry.instances["e0"].max_concurrent_requests) == 7


def test_the_status_document_has_its_fields_and_no_secret() -> None:
    with RogueEngine(ok()) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", api_key=Secret("engine-secret"))
        keys = (ApiKeySettings(key=Secret("our-secret")),)
        with gateway(instance, api_keys=keys) as g, client(g) as c:
            status = c.get("/admin/status")
            document = status.json()
            assert (document["schema"], document["state"], document["simulated"]) == (1, "running", False)
            assert document["instances"][0]["models"] == ["m"]
            assert "secret" not in status.text
            assert "secret" not in c.get("/metrics", headers={"authorization": "Bearer our-secret"}).text
