"""The Responses API in front of engines of all kinds: where ids are found, and what never reaches an engine."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from sage_inference.config.settings import InstanceSettings, LoggingSettings, SchedulingSettings, Settings
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.response_ids import IdSeeker, ids_in
from sage_inference.gateway.relay.responses import ResponsesExchange
from sage_inference.gateway.stored_responses import StoredResponses
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from sage_inference.wire.message import ResponseHead
from tests.support.cpu import cpu_time
from tests.support.decisions import attempts
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer as Answers
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw
from tests.support.wire import Caller, Reply, post

PATH = "/v1/responses"
ROUTES = [PATH, "/v1/chat/completions"]
ONE = b'{"id":"resp_1","object":"response","output":[{"id":"msg_1"}]}'
EVENTS = "content-type: text/event-stream"


def engine(*answers: Answers) -> RogueEngine:
    return RogueEngine(*answers, routes=ROUTES, scripted=(f"{PATH}/",))


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **fields}).encode()


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


def first_lines(one: RogueEngine) -> list[bytes]:
    return [request.split(b"\r\n", 1)[0] for request in one.requests]


# Where an id is found

CREATED = b'event: response.created\ndata: {"type":"response.created","response":%b}\n\n' % ONE
LONG = json.dumps({"instructions": "x" * 200_000}).encode()[1:-1]
DOCUMENTS = {
    "plain": ONE,
    "not the first field": b'{"object":"response","output":[{"id":"msg_1"}],"id":"resp_1"}',
    "spaced": b'\n{\n  "id" : "resp_1" }',
    "escaped": b'{"id":"resp\\u005f1"}',
    "with a byte order mark": b"\xef\xbb\xbf" + ONE,
    "long": b'{"id":"resp_1",%b}' % LONG,
    "long, its id in the head": b'{"output":[],"metadata":{"id":"no"},"id":"resp_1",%b}' % LONG,
}
STREAMS = {
    "plain": CREATED,
    "with CRLF": CREATED.replace(b"\n", b"\r\n"),
    "without a space": CREATED.replace(b"data: ", b"data:"),
    "behind a comment": b": hello\n\n" + CREATED,
    "behind another event": b'event: ping\ndata: {"type":"ping"}\n\n' + CREATED,
    "behind a broken one": b"data: {\n\n" + CREATED,
    "without its name": CREATED.partition(b"\n")[2],
    "with a byte order mark": b"\xef\xbb\xbf" + CREATED,
    "on two lines": b'data: {"response":\ndata: %b}\n\n' % ONE,
    "long": b'data: {"response":{"id":"resp_1",%b}}\n\n' % LONG,
    "long, and other things first": b'data: {"type":"a","response":{"output":[],"id":"resp_1",%b}}\n\n'
    % LONG,
}
NONE = {
    "no id": b'{"object":"response"}',
    "a number": b'{"id":7}',
    "null": b'{"id":null}',
    "half a pair": b'{"id":"\\ud800"}',
    "of an item": b'{"output":[{"id":"msg_1"}]}',
    "a list": b'[{"id":"resp_1"}]',
    "no JSON": b'{"id":"resp_1"',
    "empty": b"",
}


def sought(body: bytes, size: int, kind: bytes, *headers: tuple[bytes, bytes]) -> tuple[str | None, int]:
    """The id, and after how many bytes it was known."""
    seeker = IdSeeker(ResponseHead(200, [(b"content-type", kind), *headers]))
    for start in range(0, max(1, len(body)), size):
        piece = memoryview(body)[start : start + size]
        found = seeker.feed(piece, start + size >= len(body))
        if seeker.done:
            return found, start + len(piece)
    raise AssertionError("not done at the end")


@pytest.mark.parametrize("size", [1, 7, 100, 5000, 1 << 20])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_documents_id_is_found(name: str, size: int) -> None:
    body = DOCUMENTS[name]
    found, seen = sought(body, size, b"application/json")
    assert found == "resp_1"
    assert seen <= 4096 + size or seen == len(body)


@pytest.mark.parametrize("size", [1, 7, 100, 5000, 1 << 20])
@pytest.mark.parametrize("name", STREAMS)
def test_a_streams_id_is_found_in_its_first_event(name: str, size: int) -> None:
    body = STREAMS[name]
    rest = b'data: {"type":"response.output_text.delta"}\n\n' * 100
    found, seen = sought(body + rest, size, b"text/event-stream")
    assert found == "resp_1"
    assert seen <= len(body) + size


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("name", NONE)
def test_what_is_no_id_is_none(name: str, size: int) -> None:
    found, _ = sought(NONE[name], size, b"application/json")
    assert found is None or name == "no JSON"  # of a cut answer its head counts
    found, _ = sought(b'data: {"response":%b}\n\n' % NONE[name], size, b"text/event-stream")
    assert found is None or name == "no JSON"


def test_seeking_ends() -> None:
    events = b'data: {"type":"x"}\n\n' * 10_000
    assert sought(events, 100, b"text/event-stream")[1] <= 70_000
    assert sought(b'{"a":"' + b"x" * 200_000, 100, b"application/json")[1] <= 5000


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'data: {"response":{"a":[%b' % (b"[]," * 30_000), b"text/event-stream"),
        (b'data: {"response":{"a":"%b' % (b"x" * 100_000), b"text/event-stream"),
        (b"data: {}\n\n" * 10_000, b"text/event-stream"),
        (b"\r" * 100_000, b"text/event-stream"),
        (b'{"a":[%b' % (b"[]," * 30_000), b"application/json"),
        (b'{"a":"%b' % (b'\\"' * 50_000), b"application/json"),
    ],
    ids=["lists", "text", "events", "lines", "lists in a document", "escapes in a document"],
)
def test_seeking_in_small_pieces_costs_little(body: bytes, kind: bytes, size: int) -> None:
    with cpu_time() as spent:
        sought(body, size, kind)
    assert spent.seconds < 1.0


def test_a_compressed_document_is_read_and_a_compressed_stream_is_not() -> None:
    coded = (b"content-encoding", b"gzip")
    assert sought(gzip.compress(ONE), 1 << 20, b"application/json", coded)[0] == "resp_1"
    assert sought(gzip.compress(CREATED), 7, b"text/event-stream", coded)[0] is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{}", None),
        (b'{"previous_response_id":null}', None),
        (b'{"previous_response_id":"a"}', "a"),
        (b'{"previous_response_id":"a","previous_response_id":"b"}', "b"),  # as engines read it
        (b'{"previous\\u005fresponse_id":"a"}', "a"),
        (b'{"metadata":{"previous_response_id":"a"}}', None),
        (b'{"previous_response_id":7}', "7"),
        (b'{"x":NaN,"previous_response_id":"a"}', "a"),
    ],
)
def test_the_previous_response_is_read_as_engines_read_it(body: bytes, found: str | None) -> None:
    assert ids_in(body) == (found, None)
    assert ids_in(body.replace(b"previous_response_id", b"request_id"))[1] == (
        found if b"u005f" not in body else None
    )


# Through the gateway


def created(*events: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(chunk(event) for event in (CREATED, *events))


@pytest.fixture
def two() -> Iterator[tuple[RogueEngine, RogueEngine]]:
    with engine(ok(ONE)) as a, engine(ok(ONE.replace(b"resp_1", b"resp_2"))) as b:
        yield a, b


def before(*engines: RogueEngine, **settings: Any) -> Any:
    settings.setdefault("scheduling", SchedulingSettings(policy="round_robin", retries=3))
    named = (InstanceSettings(url=e.url, name=f"e{n}") for n, e in enumerate(engines))
    return gateway(*named, **settings)


def made_at(g: InProcess, caller: Caller, name: str) -> Reply:
    """A response of that instance."""
    while (reply := caller.send(post(PATH, asked())).reply()).headers["x-sage-instance"] != name:
        assert reply.status == 200
    return reply


def test_each_call_goes_to_the_maker_as_it_came(two: tuple[RogueEngine, RogueEngine]) -> None:
    with before(*two) as g, Caller(g.port) as caller:
        for number, one in enumerate(two):
            own = made_at(g, caller, f"e{number}").json["id"]
            for request in (
                get(f"{PATH}/{own}"),
                get(f"{PATH}/{own}?stream=true&starting_after=4&include[]=a"),
                get(f"{PATH}/{own}/input_items?limit=2"),
                get(f"{PATH}/{own}", method="DELETE"),
            ):
                made_at(g, caller, f"e{number}")
                one.requests.clear()
                assert caller.send(request).reply().headers["x-sage-instance"] == f"e{number}"
                assert first_lines(one) == [request.split(b"\r\n", 1)[0]]
            made_at(g, caller, f"e{number}")
            one.requests.clear()
            assert caller.send(post(f"{PATH}/{own}/cancel", b'{"a": 1}')).reply().status == 200
            assert first_lines(one) == [f"POST {PATH}/{own}/cancel HTTP/1.1".encode()]
            assert one.requests[0].endswith(b'\r\n\r\n{"a": 1}')


def test_a_deleted_response_is_forgotten_and_one_that_was_not_is_kept() -> None:
    refuses = ok('{"detail":"Method Not Allowed"}', status="405 Method Not Allowed")
    with engine(ok(ONE), refuses, ok("{}")) as one, before(one) as g, Caller(g.port) as caller:
        caller.send(post(PATH, asked())).reply()
        statuses = [caller.send(get(f"{PATH}/resp_1", method="DELETE")).reply().status for _ in range(3)]
        assert statuses == [405, 200, 404]
        assert len(one.requests) == 3


def test_it_is_explained_why_the_maker_was_chosen(two: tuple[RogueEngine, RogueEngine]) -> None:
    with before(*two) as g, Caller(g.port) as caller:
        own = made_at(g, caller, "e1").json["id"]
        headers = ("x-sage-why: 1", "x-request-id: mine")
        reply = caller.send(post(PATH, asked(previous_response_id=own), *headers)).reply()
        assert reply.headers["x-sage-why"].startswith("e1: made the previous response")
        [attempt] = attempts(g, "mine")
        assert (attempt["route"], attempt["reason"]) == (PATH, "made the previous response")
        assert (attempt["leg"], attempt["outcome"]) == (None, "done")


HOSTILE = {
    "slash": "resp_1%2F..%2Fadmin",
    "slash at its end": "resp_1%2F",
    "line break": "resp_1%0D%0AX-Evil:%20yes",
    "space": "resp_1%20HTTP/1.1",
    "dots": "..",
    "escaped dots": "%2e%2e",
    "backslash": "resp_1%5C",
    "zero": "resp_1%00",
    "no UTF-8": "resp_1%FF",
    "query escaped": "resp_1%3Fstream=true",
    "another's path": "resp_1/../../chat/completions",
    "long": "x" * 60_000,
    "case": "RESP_1",
    "none": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_id_reaches_an_engine(name: str) -> None:
    with engine(ok(ONE)) as one, before(one) as g, Caller(g.port) as caller:
        caller.send(post(PATH, asked())).reply()
        for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            reply = caller.send(
                get(f"{PATH}/{HOSTILE[name]}{tail}", "content-length: 0", method=method)
            ).reply()
            assert reply.status in (404, 405)
            assert len(reply.body) < 1000
        assert len(one.requests) == 1


def test_an_id_of_a_megabyte_is_refused() -> None:
    with engine(ok(ONE)) as one, before(one) as g:
        with Caller(g.port) as caller:
            assert caller.send(get(f"{PATH}/{'x' * (1 << 20)}")).rest().startswith(b"HTTP/1.1 431")
        with Caller(g.port) as caller:
            body = asked(previous_response_id="x" * (1 << 20))
            assert caller.send(post(PATH, body)).reply().status == 200  # the engine's to refuse
        assert len(one.requests) == 1


@pytest.mark.parametrize(
    "own",
    ["../../admin", "a/cancel", "a\\r\\nX-Evil: yes", "a b", "..", "", "x" * 257, "\\u00e4", "a?b", "a%2Fb"],
)
def test_an_id_that_does_not_fit_in_a_path_is_not_remembered(own: str) -> None:
    with engine(ok(f'{{"id":"{own}"}}')) as one, before(one) as g, Caller(g.port) as caller:
        assert caller.send(post(PATH, asked())).reply().status == 200
        assert g.ask(lambda r: len(r.gateway.responses)) == 0


@pytest.mark.parametrize(
    "spelt", ["/v1/%72esponses/resp_1", "/v1/responses/resp%5F1", "http://localhost/v1/responses/resp_1"]
)
def test_another_spelling_reaches_it_as_its_plain_path(spelt: str) -> None:
    with engine(ok(ONE)) as one, before(one) as g, Caller(g.port) as caller:
        caller.send(post(PATH, asked())).reply()
        assert caller.send(get(spelt)).reply().status == 200
        assert first_lines(one)[1] == b"GET /v1/responses/resp_1 HTTP/1.1"


FAILED: dict[str, Answers] = {
    "reset": raw("", then="reset"),
    "503": ok("{}", status="503 Service Unavailable"),
    "429": ok("{}", status="429 Too Many Requests"),
    "garbage": raw("garbage\r\n\r\n", then="close"),
    "500": ok("{}", status="500 Internal Server Error"),
}


@pytest.mark.parametrize("how", FAILED)
@pytest.mark.parametrize("call", ["follow", "cancel", "get"])
def test_nothing_is_repeated_at_another_engine(how: str, call: str) -> None:
    requests = {
        "follow": post(PATH, asked(previous_response_id="resp_1")),
        "cancel": post(f"{PATH}/resp_1/cancel", b""),
        "get": get(f"{PATH}/resp_1"),
    }
    with (
        engine(ok(ONE), FAILED[how]) as a,
        engine(ok("{}")) as b,
        before(a, b) as g,
        Caller(g.port) as caller,
    ):
        while not a.requests:
            caller.send(post(PATH, asked())).reply()
        b.requests.clear()
        assert caller.send(requests[call]).reply().status in (502, 503, 429, 500)
        assert not b.requests
        # An idle connection that ends without an answer did not carry the request: it is sent there once more.
        assert len(a.requests) == (3 if how == "reset" else 2)


def test_a_cancel_is_not_held_up_by_a_full_instance() -> None:
    def held(wire: Wire) -> None:
        assert wire.engine.go.wait(20)
        ok(ONE)(wire)

    with engine(ok(ONE), held, ok("{}")) as one:
        full = InstanceSettings(url=one.url, name="e0", max_concurrent_requests=1)
        with gateway(full) as g, Caller(g.port) as busy, Caller(g.port) as caller:
            caller.send(post(PATH, asked())).reply()
            one.arrived.get(timeout=10)
            busy.send(post(PATH, asked()))
            one.arrived.get(timeout=10)
            assert caller.send(post(f"{PATH}/resp_1/cancel", b"")).reply().status == 200
            one.go.set()
            assert busy.reply().status == 200


def test_one_that_waits_for_its_maker_learns_that_it_was_removed() -> None:
    def held(wire: Wire) -> None:
        wire.engine.go.wait(20)
        ok(ONE)(wire)

    with engine(ok(ONE), held) as a, engine(ok("{}")) as b:
        full = InstanceSettings(url=a.url, name="a", max_concurrent_requests=1)
        with gateway(full) as g, Caller(g.port) as first, Caller(g.port) as second:
            first.send(post(PATH, asked())).reply()
            g.ask(lambda r: r.fleet.add(InstanceSettings(url=b.url, name="b")))
            g.until(lambda r: r.gateway.engines["b"].instance.state is EngineState.READY)
            follows = post(PATH, asked(previous_response_id="resp_1"))
            first.send(follows)
            a.arrived.get(timeout=10)
            a.arrived.get(timeout=10)
            second.send(follows)
            g.until(lambda r: r.gateway.scheduler.queued == 1)
            g.ask(lambda r: r.fleet.remove("a"))
            reply = second.reply()
            assert (reply.status, reply.error["code"]) == (404, "previous_response_not_found")
            assert "Instance a, which made it, was removed" in reply.error["message"]
            assert not b.requests
            a.go.set()
            assert first.reply().status == 200


def test_once_its_id_is_known_a_stream_is_relayed_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = ResponsesExchange.engine_sends

    def counting(self: ResponsesExchange, piece: Any, end: bool) -> None:
        seen.append(len(piece))
        original(self, piece, end)

    def slowly(wire: Wire) -> None:
        wire.send(created())
        for number in range(200):
            assert wire.engine.go.wait(20)
            wire.engine.go.clear()
            wire.send(chunk(b'data: {"n":%d}\n\n' % number))
        wire.send(b"0\r\n\r\n")

    monkeypatch.setattr(ResponsesExchange, "engine_sends", counting)
    with engine(slowly, ok("{}")) as one, before(one) as g, Caller(g.port) as caller:
        assert caller.send(post(PATH, asked(stream=True))).head().status == 200
        assert b"resp_1" in caller.chunk()
        for number in range(200):
            one.go.set()
            assert b'"n":%d}' % number in caller.chunk()
        assert caller.chunk() == b""
        assert len(seen) <= 3
        assert caller.send(get(f"{PATH}/resp_1")).head().status == 200


def test_a_first_event_in_many_pieces_is_relayed_as_it_comes() -> None:
    body = b'data: {"response":{"instructions":"%b","id":"resp_1"}}\n\n' % (b"x" * 3000)

    def torn(wire: Wire) -> None:
        wire.send(created()[: created().index(b"\r\n\r\n") + 4])
        for start in range(0, len(body), 500):
            assert wire.engine.go.wait(20)
            wire.engine.go.clear()
            wire.send(chunk(body[start : start + 500]))
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with engine(torn, ok("{}")) as one, before(one) as g, Caller(g.port) as caller:
        caller.send(post(PATH, asked(stream=True)))
        one.go.set()
        caller.head()
        got = caller.chunk()
        while len(got) < len(body):
            one.go.set()
            got += caller.chunk()
        assert got.startswith(body)
        while caller.chunk():
            pass
        assert caller.send(get(f"{PATH}/resp_1")).reply().status == 200


def test_metrics_and_the_log_name_the_route_and_no_other_route_pays() -> None:
    with (
        engine(ok(ONE)) as one,
        before(one, logging=LoggingSettings(access=True)) as g,
        Caller(g.port) as caller,
    ):
        caller.send(post(PATH, asked())).reply()
        for name in ("resp_1", "resp_none", "resp_other"):
            caller.send(get(f"{PATH}/{name}")).reply()
        outcomes = g.ask(lambda r: dict(r.gateway.stats.outcomes))
        template = "/v1/responses/{response_id}"
        assert outcomes == {(PATH, 200): 1, (template, 200): 1, (template, 404): 2}
        kinds = g.ask(lambda r: r.gateway.exchanges.get("/v1/chat/completions"))
        assert kinds is None


def test_in_a_fleet_of_pairs_the_maker_is_found_too() -> None:
    with engine(ok("{}")) as p, engine(ok(ONE)) as d, engine(ok(ONE.replace(b"resp_1", b"resp_2"))) as e:
        kinds = ((p, "p", "prefilling"), (d, "d", "decoding"), (e, "e", "decoding"))
        paired = [InstanceSettings(url=one.url, name=name, kind=kind) for one, name, kind in kinds]
        policy = SchedulingSettings(policy="round_robin")
        with gateway(*paired, scheduling=policy) as g, Caller(g.port) as caller:
            own = {name: made_at(g, caller, name).json["id"] for name in ("d", "e")}
            for name in ("d", "d", "e", "e", "d"):
                follows = caller.send(post(PATH, asked(previous_response_id=own[name]))).reply()
                read = caller.send(get(f"{PATH}/{own[name]}")).reply()
                assert follows.headers["x-sage-instance"] == read.headers["x-sage-instance"] == name
            stolen = asked(previous_response_id=own["d"], kv_transfer_params={"remote_host": "h"})
            assert caller.send(post(PATH, stolen)).reply().status == 400
            assert not p.requests


def _apply(running: RunningGateway, settings: Settings) -> None:
    running.fleet.apply(settings)


def test_a_reload_that_changes_the_maker_forgets_nothing_unless_it_is_another_engine() -> None:
    with engine(ok(ONE)) as one, engine(ok("{}")) as other:
        with gateway(InstanceSettings(url=one.url, name="e#1")) as g, Caller(g.port) as caller:
            caller.send(post(PATH, asked())).reply()
            for url, status in ((one.url, 200), (other.url, 404), (f"{one.url}/v1", 200)):
                changed = InstanceSettings(url=url, name="e#1", max_concurrent_requests=7)
                settings = Settings(instances=(changed,))
                g.ask(partial(_apply, settings=settings))
                g.until(lambda r: r.gateway.can_serve)
                for request in (get(f"{PATH}/resp_1"), post(PATH, asked(previous_response_id="resp_1"))):
                    assert caller.send(request).reply().status == status


# A chain of responses


def keeping(name: str, *, refuses: int = 404, streams: bool = False) -> RogueEngine:
    """Makes responses, and goes on only from those that it made, as vLLM does."""
    made: list[str] = []

    def answer(wire: Wire) -> None:
        request = json.loads(wire.engine.requests[-1].split(b"\r\n\r\n", 1)[1])
        previous = request.get("previous_response_id")
        if previous is not None and previous not in made:
            error = {"error": {"message": f"Response with id '{previous}' not found.", "code": refuses}}
            ok(json.dumps(error), status=f"{refuses} No")(wire)
            return
        made.append(f"resp_{name}_{len(made)}")
        document = json.dumps({"id": made[-1], "object": "response"}).encode()
        if streams:
            events = b'data: {"type":"response.created","response":%b}\n\n' % document
            head = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            wire.send(head + chunk(events) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        else:
            ok(document.decode())(wire)

    return engine(*[answer] * 100)


def id_of(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    found = re.search(rb'"id": ?"(resp_[^"]+)"', reply.body)
    assert found is not None
    return found[1].decode()


@pytest.mark.parametrize("streams", [False, True], ids=["one piece", "streamed"])
@pytest.mark.parametrize("refuses", [404, 400])
def test_a_chain_goes_on_with_a_gateway_that_was_started_anew(streams: bool, refuses: int) -> None:
    how: dict[str, Any] = {"refuses": refuses, "streams": streams}
    with keeping("a", **how) as a, keeping("b", **how) as b, keeping("c", **how) as c:
        with before(a, b, c) as g, Caller(g.port) as caller:
            ids = {made_at(g, caller, f"e{n}").headers["x-sage-instance"]: "" for n in range(3)}
            for name in ids:
                ids[name] = id_of(made_at(g, caller, name))
        for _ in range(2):
            with before(a, b, c) as g, Caller(g.port) as caller:
                for name in ids:
                    for _ in range(2):
                        reply = caller.send(post(PATH, asked(previous_response_id=ids[name]))).reply()
                        assert reply.headers["x-sage-instance"] == name
                        ids[name] = id_of(reply)


def test_the_maker_that_was_found_is_remembered() -> None:
    with keeping("a") as a, keeping("b") as b:
        with before(a, b) as g, Caller(g.port) as caller:
            own = id_of(made_at(g, caller, "e1"))
        with before(a, b) as g, Caller(g.port) as caller:
            for _ in range(4):  # several go on from one response
                assert caller.send(post(PATH, asked(previous_response_id=own))).reply().status == 200
            sent = sum(own.encode() in request for request in a.requests)
            assert sent <= 1


def test_a_response_that_nobody_has_is_sought_once_everywhere() -> None:
    with keeping("a") as a, keeping("b") as b, keeping("c") as c, before(a, b, c) as g:
        with Caller(g.port) as caller:
            reply = caller.send(post(PATH, asked(previous_response_id="resp_none"))).reply()
            assert reply.status == 404
            assert "resp_none" in reply.json["error"]["message"]
            assert [len(each.requests) for each in (a, b, c)] == [1, 1, 1]
            assert caller.send(post(PATH, asked())).reply().status == 200


@pytest.mark.parametrize(
    "refusal",
    [
        ok('{"error":"the model `m` does not exist"}', status="404 Not Found"),
        ok('{"error":"temperature"}', status="400 Bad Request"),
        ok('{"error":"resp_1"}', status="500 Internal Server Error"),
        raw("HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\nresp_1", then="close"),
    ],
    ids=["model", "other field", "500", "cut"],
)
def test_another_refusal_ends_the_search(refusal: Answers) -> None:
    with engine(refusal) as a, engine(refusal) as b, before(a, b) as g, Caller(g.port) as caller:
        status = caller.send(post(PATH, asked(previous_response_id="resp_1"))).reply().status
        assert status >= 400
        retried = status in (502, 503)
        assert len(a.requests) + len(b.requests) == 1 + retried


def test_nobody_is_sought_for_an_empty_id_or_with_a_long_body() -> None:
    for more in ({"previous_response_id": ""}, {"previous_response_id": "r", "input": "x" * (1 << 20)}):
        with keeping("a") as a, keeping("b") as b, before(a, b) as g, Caller(g.port) as caller:
            assert caller.send(post(PATH, asked(**more))).reply().status == 404
            assert len(a.requests) + len(b.requests) == 1


def test_a_maker_that_is_gone_is_a_clear_answer_and_no_hang() -> None:
    with keeping("b") as b:
        with keeping("a") as a, before(a, b) as g, Caller(g.port) as caller:
            own = id_of(made_at(g, caller, "e0"))
            a.__exit__(None, None, None)
            began = time.monotonic()
            reply = caller.send(post(PATH, asked(previous_response_id=own))).reply()
            assert reply.status in (502, 503)
            assert "e0" in reply.error["message"]
            assert time.monotonic() - began < 10
            assert not any(own.encode() in request for request in b.requests)


# What is remembered


def remembering(most: int = 10, most_bytes: int = 1000) -> tuple[StoredResponses, Any]:
    def fake(name: str, url: str) -> Any:
        instance = SimpleNamespace(instance_id=name, state=EngineState.READY)
        return SimpleNamespace(instance=instance, address=SimpleNamespace(url=url))

    engines = {name: fake(name, f"http://{name}") for name in ("a", "b")}
    return StoredResponses(engines, most, most_bytes), engines


def known(stored: StoredResponses, response_id: str, tenant: str = "") -> bool:
    try:
        stored.to_ask(response_id, tenant)
    except ApiError:
        return False
    return True


def test_the_least_recently_used_goes_first() -> None:
    stored, engines = remembering()
    for number in range(10):
        stored.remember(f"r{number}", "", engines["a"])
    assert known(stored, "r0")
    stored.remember("r10", "", engines["b"])
    assert [known(stored, f"r{n}") for n in range(11)] == [True, False, *[True] * 9]
    assert len(stored) == 10


def test_their_bytes_are_bounded_too() -> None:
    stored, engines = remembering(most=100)
    for number in range(20):
        stored.remember(f"{number:0200d}", "", engines["a"])
    assert len(stored) == 5
    stored.remember("x" * 257, "", engines["a"])
    assert len(stored) == 5


def test_a_busy_tenant_pushes_out_its_own() -> None:
    stored, engines = remembering()
    stored.remember("mine", "quiet", engines["a"])
    for number in range(100):
        stored.remember(f"r{number}", "busy", engines["a"])
    assert known(stored, "mine", "quiet")
    assert len(stored) == 10


def test_the_same_id_again_is_counted_once_and_kept_from_others() -> None:
    stored, engines = remembering()
    for tenant in ("one", "one", "two"):
        stored.remember("r", tenant, engines["a"])
    stored.remember("r", "one", engines["b"])
    assert len(stored) == 1
    assert stored.to_ask("r", "one") is engines["b"]
    assert not known(stored, "r", "two")
    stored.forget("r", "two")
    stored.forget("r", "one")
    assert len(stored) == 0
