"""The live document, and the list of requests: shapes, bounds, and what they cost nobody who does not watch."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import httpx
import pytest

from sage_inference.cli.liveschemas import LIVE, REQUESTS
from sage_inference.cli.requestschema import REQUEST
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings
from sage_inference.gateway.api.live import MOST_LISTED
from sage_inference.gateway.live import feed
from sage_inference.server import RunningGateway
from sage_inference.telemetry import refusals
from tests.cli.shape import mistakes
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.live import HEAD, Viewer
from tests.support.rogue import RogueEngine, Wire, ok, raw, sse
from tests.support.wire import Caller

USED = '{"usage":{"prompt_tokens":70,"completion_tokens":7,"total_tokens":77}}'
STREAM = raw(sse('{"choices":[]}', *['{"choices":[{"delta":{"content":"x"}}]}'] * 5, "[DONE]") + b"0\r\n\r\n")
LABEL = '</script><img src=x onerror="alert(1)">\u2028'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PERIOD_S", 0.02)


def listed(g: InProcess, query: str = "") -> dict[str, Any]:
    reply = httpx.get(f"{g.url}/admin/requests{query}", headers=ADMIN)
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    assert mistakes(document, REQUESTS) == []
    return document


def most_unsent(running: RunningGateway) -> int:
    connections = running.server.server_state.connections
    return max(each.transport.get_write_buffer_size() for each in connections)


def ids(document: dict[str, Any]) -> list[str]:
    return [each["request_id"] for each in document["requests"]]


def test_a_viewer_gets_the_state_at_once_and_then_again_with_each_request() -> None:
    keys = (ApiKeySettings(key=Secret("k"), name="lab"),)
    with RogueEngine(ok(USED)) as a, RogueEngine(ok(USED)) as b, gateway(a, b, api_keys=keys) as g:
        with Viewer(g.port) as viewer, Caller(g.port) as caller:
            assert viewer.head.headers["content-type"].startswith("text/event-stream")
            name, state = viewer.event()
            assert (name, mistakes(state, LIVE)) == ("state", [])
            assert [each["name"] for each in state["instances"]] == ["e0", "e1"]
            caller.chat("x-request-id: mine", "authorization: Bearer k").reply()
            seen = viewer.next("request")
            assert (seen["request_id"], seen["tenant"], seen["status"]) == ("mine", "lab", 200)
            assert (seen["outcome"], seen["route"]) == ("done", "/v1/chat/completions")
            assert seen["total_ms"] >= seen["queue_ms"] >= 0
            assert viewer.next("state")["ended"] >= 1
        g.until(lambda r: not r.feed.viewers)


def test_nothing_is_made_while_nobody_watches() -> None:
    with RogueEngine(ok(USED)) as engine, gateway(engine) as g:
        with Viewer(g.port) as viewer:
            viewer.next("state")
            assert g.ask(lambda r: r.feed.is_working)
        g.until(lambda r: not r.feed.is_working)
        with Viewer(g.port) as viewer:  # and begins again, with a state of now
            assert viewer.event()[0] == "state"


def test_a_viewer_that_does_not_read_is_not_buffered_for_and_sees_the_newest_state_next() -> None:
    with gateway() as g, Caller(g.port) as deaf, Viewer(g.port) as viewer:
        deaf.send(HEAD)
        deaf.head()
        g.until(lambda r: r.feed.viewers == 2)
        made = len(json.dumps(viewer.next("state")))
        for _ in range(40):
            viewer.next("state")
        assert g.ask(most_unsent) <= 65536 + 2 * made


def test_all_viewers_get_the_same_bytes_and_one_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_VIEWERS", 3)
    with gateway() as g, contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(g.port)) for _ in range(3)]
        for viewer in viewers:
            viewer.next("state")
        moments = [{viewer.next("state")["at_ms"] for _ in range(5)} for viewer in viewers]
        assert set.intersection(*moments)
        refused = stack.enter_context(Viewer(g.port))
        assert refused.head.status == 503


@pytest.mark.parametrize("at_once", [False, True])
def test_the_stream_ends_when_the_gateway_stops(at_once: bool) -> None:
    with gateway() as g, Viewer(g.port) as viewer:
        viewer.next("state")
        began = time.monotonic()
        g.stop(at_once=at_once)
        assert time.monotonic() - began < 5
        if not at_once:
            assert viewer.next("end") == {"reason": "the gateway stops"}
            assert viewer.ends()


def test_running_streams_are_rows_and_their_chunks_count_as_tokens() -> None:
    def slow(wire: Wire) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        wire.send(head)
        for _ in range(200):
            wire.send(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
            time.sleep(0.005)
        wire.close()

    with RogueEngine(slow) as engine, gateway(engine) as g, Viewer(g.port) as viewer, Caller(g.port) as c:
        c.chat("x-request-id: long", stream=True)
        c.head()
        while not (state := viewer.next("state"))["running"] or not state["rates"]["tokens_per_s"]:
            pass
        [row] = state["running"]
        assert (row["request_id"], row["outcome"], row["number"]) == ("long", None, None)
        assert state["instances"][0]["in_flight"] == 1
        assert mistakes(state, LIVE) == []


def test_a_queue_is_counted_by_priority_tenant_and_model() -> None:
    keys = tuple(ApiKeySettings(key=Secret(name), name=name) for name in ("lab", "shop"))

    def held(wire: Wire) -> None:
        wire.wait_for_peer_to_leave()

    with RogueEngine(held) as engine, contextlib.ExitStack() as stack:
        only = InstanceSettings(url=engine.url, name="only", kind="llm", max_concurrent_requests=1)
        g = stack.enter_context(gateway(only, api_keys=keys))
        for key, level in (("lab", "high"), ("lab", "low"), ("lab", "low"), ("shop", "low")):
            caller = stack.enter_context(Caller(g.port))
            caller.chat(f"authorization: Bearer {key}", f"x-sage-priority: {level}")
            g.until(lambda r: r.gateway.in_flight == 1)
        g.until(lambda r: r.gateway.scheduler.queued == 3)
        with Viewer(g.port) as viewer:
            state = viewer.next("state")
        assert state["queue"]["requests"] == 3
        assert (state["queue"]["by_priority"]["low"], state["queue"]["by_priority"]["high"]) == (3, 0)
        assert state["queue"]["by_tenant"] == [
            {"tenant": "lab", "requests": 2},
            {"tenant": "shop", "requests": 1},
        ]
        assert state["queue"]["oldest_ms"] > 0
        assert (state["instances"][0]["queued"], state["instances"][0]["limit"]) == (3, 1)


# The list


def test_requests_are_read_on_from_where_the_last_answer_ended() -> None:
    with RogueEngine(ok(USED)) as engine, gateway(engine) as g, Caller(g.port) as c:
        assert listed(g)["requests"] == []
        for number in range(5):
            c.chat(f"x-request-id: r{number}").reply()
        first = listed(g, "?after=0&limit=2")
        assert ids(first) == ["r0", "r1"]
        rest = listed(g, f"?after={first['last']}")
        assert ids(rest) == ["r2", "r3", "r4"]
        nothing = {"schema": 1, "last": rest["last"], "ended": 5, "requests": []}
        assert listed(g, f"?after={rest['last']}") == nothing
        assert ids(listed(g, "?limit=2")) == ["r3", "r4"]
        assert listed(g, "?limit=0")["requests"] == []
        assert listed(g, f"?after={1 << 61}")["requests"] == []


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=1125", "limit=", "after=1e3", "limit=٣", "after=" + "9" * 30]
)
def test_an_odd_number_is_400(query: str) -> None:
    with gateway() as g:
        reply = httpx.get(f"{g.url}/admin/requests?{query}", headers=ADMIN)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_every_attempt_that_ended_is_counted_and_listed() -> None:
    answers = (raw(b"", then="reset"), ok(USED), STREAM, ok(b"{}", status="500 No"), raw(b"", then="silent"))
    with RogueEngine(*answers) as engine, gateway(engine) as g:
        with Caller(g.port) as c:
            c.chat().reply()
            c.chat(stream=True).reply()
            c.chat().reply()
            c.chat(model="nobody").reply()
            c.chat()
            g.until(lambda r: r.gateway.in_flight == 1)
        g.until(lambda r: not r.gateway.in_flight)
        found = listed(g)
        assert found["ended"] == len(found["requests"]) >= 4


def test_a_row_has_sizes_and_times_and_no_text() -> None:
    with RogueEngine(STREAM) as engine, gateway(engine) as g, Caller(g.port) as c:
        c.chat("x-request-id: s", stream=True, user=LABEL, messages=[{"role": "user", "content": "secret"}])
        c.reply()
        g.until(lambda r: not r.gateway.in_flight)
        document = listed(g)
        [row] = document["requests"]
        assert row["streams"]
        assert row["ttft_ms"] is not None
        assert row["tokens_estimated"]
        assert "secret" not in json.dumps(document)
        assert "onerror" in row["tenant"]  # a viewer has to escape it


def test_a_refused_request_is_a_row_with_the_reason_that_its_caller_got() -> None:
    keys = (ApiKeySettings(key=Secret("k"), name="lab"),)
    with RogueEngine(ok(USED)) as engine, gateway(engine, api_keys=keys) as g, Viewer(g.port) as viewer:
        viewer.next("state")
        with Caller(g.port) as caller:
            caller.chat("x-request-id: none", "authorization: Bearer k", model="no-such-model")
            reply = caller.reply()
            assert reply.status == 404
        row = viewer.next("request")
        assert mistakes(row, REQUEST) == []
        assert (row["request_id"], row["outcome"], row["status"]) == ("none", "refused", 404)
        assert (row["model"], row["tenant"], row["instance"]) == ("no-such-model", "lab", "")
        assert row["why"] == json.loads(reply.body)["error"]["message"]
        with Caller(g.port) as caller:  # refused before the body was read
            caller.chat("authorization: Bearer wrong")
            assert caller.reply().status == 401
        assert [each["status"] for each in listed(g)["requests"]] == [404, 401]
        assert listed(g, f"?after={row['number']}")["requests"][0]["status"] == 401


def test_refusals_without_end_leave_room_for_the_requests_that_are_served() -> None:
    with RogueEngine(ok(USED)) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat("x-request-id: served").reply()
        for _ in range(refusals.KEPT + 50):
            caller.chat(model="x" * 200).reply()
        found = listed(g, f"?limit={MOST_LISTED}")
        rows = found["requests"]
        assert len(rows) == refusals.KEPT + 1
        assert found["ended"] == refusals.KEPT + 51
        assert rows[0]["request_id"] == "served"
        assert max(len(each["why"]) for each in rows) <= 300
