"""Compressed requests: engines get plain bytes, and no sender can make the gateway unfold what it does not want."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

import sage_inference as si
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, LimitSettings, TimeoutSettings
from tests.support.codings import cases, needs_zstd, zstd
from tests.support.inprocess import ADMIN, InProcess
from tests.support.inprocess import gateway as before
from tests.support.memory import check_memory_goes_back
from tests.support.rogue import RogueEngine, Wire, ok
from tests.support.wire import CHAT, Caller, Reply, chat, post

Encode = Callable[[bytes], bytes]
LIMIT = 700_000
NOISE = random.Random(1).randbytes(1_000_000).hex()
BODY = chat(text=NOISE[:3000])
LARGE = chat(text=NOISE[:600_000])
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
GZIP = "content-encoding: gzip"
TOKEN = f"authorization: {ADMIN['authorization']}"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
    % NOISE[:9000].encode()
)


def gateway(engine: RogueEngine, **timeouts: float) -> AbstractContextManager[InProcess]:
    limits = LimitSettings(bodies_bytes=1_000_000, body_bytes=LIMIT)
    return before(engine, limits=limits, timeouts=TimeoutSettings(**timeouts))


@pytest.fixture(scope="module")
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok()) as engine:
        yield engine


@pytest.fixture(scope="module")
def door(engine: RogueEngine) -> Iterator[InProcess]:
    with gateway(engine) as g:
        yield g


@pytest.fixture
def caller(door: InProcess, engine: RogueEngine) -> Iterator[Caller]:
    engine.requests.clear()
    engine.answers = [ok()]
    with Caller(door.port) as caller:
        yield caller


def body_of(request: bytes) -> bytes:
    """What the engine got, framed as it must be."""
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"content-encoding" not in head.lower()
    assert b"\r\ncontent-length: %d" % len(body) in head
    assert head.lower().count(b"content-length") == 1
    assert b"transfer-encoding" not in head.lower()
    return body


def in_chunks(body: bytes, size: int = 1000) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def nothing_left(door: InProcess) -> None:
    door.until(lambda r: r.gateway.bodies.held == 0 and r.gateway.in_flight == 0)


@pytest.mark.parametrize(("header", "encode"), cases())
def test_the_engine_gets_plain_bytes(
    caller: Caller, engine: RogueEngine, header: str, encode: Encode
) -> None:
    for body in (BODY, LARGE):
        assert caller.send(post(CHAT, encode(body), f"content-encoding: {header}")).reply().status == 200
        assert body_of(engine.requests[-1]) == body


EVERY = {
    "/v1/chat/completions": BODY,
    "/v1/completions": b'{"model":"m","prompt":"hi"}',
    "/v1/responses": b'{"model":"m","input":"hi"}',
    "/v1/messages": b'{"model":"m","messages":[],"max_tokens":1}',
    "/v1/embeddings": b'{"model":"m","input":["a","b"],"user":"\xc3\xa9"}',
    "/v1/rerank": b'{"model":"m","query":"q","documents":["a"]}',
    "/tokenize": b'{"model":"m","prompt":"hi"}',
    "/v1/audio/transcriptions": FORM,
}


@pytest.mark.parametrize(("header", "encode"), cases("gzip", "deflate", "zstd"))
def test_on_every_route(header: str, encode: Encode) -> None:
    with RogueEngine(ok(), routes=tuple(EVERY)) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for path, body in EVERY.items():
            more = ("content-type: multipart/form-data; boundary=x",) if body is FORM else ()
            message = post(path, encode(body), f"content-encoding: {header}", *more)
            assert caller.send(message).reply().status == 200, path
            assert body_of(engine.requests[-1]) == body


def test_an_alias_and_a_missing_model_are_filled_in(engine: RogueEngine) -> None:
    with before(engine, aliases={"gpt": "m"}) as g, Caller(g.port) as c:
        for sent, got in ((b'{"model":"gpt","messages":[]}', b'{"model":"m","messages":[]}'),
                          (b'{"messages":[]}', b'{"model":"m","messages":[]}')):  # fmt: skip
            assert c.send(post(CHAT, gzip.compress(sent), GZIP)).reply().status == 200
            assert body_of(engine.requests[-1]) == got


@pytest.mark.parametrize("step", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_however_it_arrives(caller: Caller, engine: RogueEngine, step: int, chunked: bool) -> None:
    body = BODY if step < 100 else LARGE
    data = gzip.compress(body)
    if chunked:
        message = (
            HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n" + in_chunks(data, 313)
        )
    else:
        message = post(CHAT, data, GZIP)
    for _ in range(2):
        for at in range(0, len(message), step):
            caller.send(message[at : at + step])
        assert caller.reply().status == 200
        assert body_of(engine.requests[-1]) == body


def test_pipelined_requests_are_answered_in_order(caller: Caller, engine: RogueEngine) -> None:
    engine.answers = [ok(b'{"n":%d}' % n) for n in range(40)]
    sent = []
    message = b""
    for n in range(40):
        body = chat(number=n, text=NOISE[: n * 1000])
        sent.append(body)
        if n % 3 == 0:
            message += post(CHAT, gzip.compress(body), GZIP)
        elif n % 3 == 1:
            message += post(CHAT, body)
        else:
            message += HEAD + b"Content-Encoding: deflate\r\ntransfer-encoding: chunked\r\n\r\n"
            message += in_chunks(zlib.compress(body), 211)
    caller.send(message)
    assert [caller.reply().body for _ in range(40)] == [b'{"n":%d}' % n for n in range(40)]
    assert [body_of(request) for request in engine.requests] == sent


def test_a_refused_request_does_not_spoil_those_around_it(caller: Caller, engine: RogueEngine) -> None:
    good, bad = post(CHAT, gzip.compress(BODY), GZIP), post(CHAT, gzip.compress(BODY)[:-1], GZIP)
    caller.send(good + bad + good + post(CHAT, BODY) + bad + good)
    assert [caller.reply().status for _ in range(6)] == [200, 400, 200, 200, 400, 200]
    assert len(engine.requests) == 4


def test_it_is_invited_by_100_continue(caller: Caller, engine: RogueEngine) -> None:
    data = gzip.compress(BODY)
    head, _, _ = post(CHAT, data, GZIP, "expect: 100-continue").partition(b"\r\n\r\n")
    caller.send(head + b"\r\n\r\n")
    assert caller.head().status == 100
    assert caller.send(data).reply().status == 200
    assert body_of(engine.requests[-1]) == BODY


def test_no_invitation_for_a_coding_that_is_not_read(caller: Caller) -> None:
    caller.send(HEAD + b"content-encoding: br\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
    assert caller.reply().status == 415


@pytest.mark.parametrize("name", ["br", "snappy", "compress", "gzip, br", "gzip;q=1", "gzip, gzip, gzip"])
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/audio/transcriptions", "/v1/messages"])
def test_any_other_coding_is_415_and_lists_those_that_are_read(
    caller: Caller, engine: RogueEngine, path: str, name: str
) -> None:
    reply = caller.send(post(path, BODY, f"content-encoding: {name}")).reply()
    assert reply.status == 415
    assert reply.headers["accept-encoding"].startswith("gzip, deflate")
    last = "br" if name == "gzip, br" else name
    assert f'the content coding "{last}"' in reply.error["message"]
    assert "gzip, deflate" in reply.error["message"]
    assert not engine.requests


def test_sums_of_compressed_bytes_do_not_go_on(caller: Caller, engine: RogueEngine) -> None:
    sums = ("Content-Digest: sha-256=:x:", "content-md5: x", "Digest: x", "repr-digest: x")
    for body, coding in ((gzip.compress(BODY), "gzip"), (BODY, "identity")):
        message = post(CHAT, body, f"content-encoding: {coding}", *sums, "x-digest: y")
        assert caller.send(message).reply().status == 200
        head = engine.requests[-1].partition(b"\r\n\r\n")[0].lower()
        assert b"x-digest: y" in head
        assert (b"sha-256" in head) == (b"-md5" in head) == (b"\r\ndigest" in head) == (coding == "identity")


def test_two_headers_are_a_list(caller: Caller, engine: RogueEngine) -> None:
    data = gzip.compress(zlib.compress(BODY))
    assert (
        caller.send(post(CHAT, data, "Content-Encoding: deflate", "content-encoding: gzip")).reply().status
        == 200
    )
    assert body_of(engine.requests[-1]) == BODY


@pytest.mark.parametrize(("header", "encode"), [one for one in cases() if one.id != "identity"])  # type: ignore[attr-defined]
def test_broken_data_is_400_and_says_so(
    caller: Caller, engine: RogueEngine, header: str, encode: Encode
) -> None:
    data = encode(BODY)
    for broken in (data[:-1], data[: len(data) // 2], data + b"garbage", BODY, data[:1]):
        reply = caller.send(post(CHAT, broken, f"content-encoding: {header}")).reply()
        assert (reply.status, reply.error["code"]) == (400, "bad_content_encoding")
        assert "is no valid" in reply.error["message"]
        assert "connection" not in reply.headers  # the connection goes on
    assert not engine.requests
    assert caller.send(post(CHAT, data, f"content-encoding: {header}")).reply().status == 200


def test_broken_data_is_refused_before_its_end(caller: Caller) -> None:
    caller.send(post(CHAT, b"x" * 100_000, GZIP)[:-50_000])
    reply = caller.reply()
    assert (reply.status, reply.headers["connection"]) == (400, "close")


def test_an_empty_body_is_empty(caller: Caller) -> None:
    reply = caller.send(post(CHAT, b"", GZIP)).reply()
    assert (reply.status, reply.error.get("code")) == (400, None)
    assert "gzip" not in reply.error["message"]
    assert (
        caller.send(post(CHAT, gzip.compress(b""), GZIP)).reply().error["message"] == reply.error["message"]
    )


@pytest.mark.parametrize(("header", "encode"), [one for one in cases() if one.id != "identity"])  # type: ignore[attr-defined]
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_the_limit_counts_what_comes_out(
    caller: Caller, engine: RogueEngine, door: InProcess, header: str, encode: Encode, chunked: bool
) -> None:
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        body = chat(text="")
        body = chat(text="x" * (size - len(body)))
        data = encode(body)
        if chunked:
            lines = f"content-encoding: {header}\r\ntransfer-encoding: chunked\r\n\r\n"
            message = HEAD + lines.encode() + in_chunks(data)
        else:
            message = post(CHAT, data, f"content-encoding: {header}")
        reply = caller.send(message).reply()
        assert reply.status == status
    assert f"{LIMIT} bytes when decompressed (limits.body_bytes)" in reply.error["message"]
    assert len(engine.requests) == 1
    nothing_left(door)


def test_incompressible_bodies_up_to_the_limit_are_read(caller: Caller, engine: RogueEngine) -> None:
    form = FORM.replace(NOISE[:9000].encode(), random.Random(2).randbytes(LIMIT - 12_000))
    data = gzip.compress(form)
    assert len(data) > len(form)
    message = post("/v1/audio/transcriptions", data, GZIP, "content-type: multipart/form-data; boundary=x")
    for at in range(0, len(message), 50_001):  # the last piece is the end of gzip's alone
        caller.send(message[at : at + 50_001])
    assert caller.reply().status == 200
    assert body_of(engine.requests[-1]) == form


def test_a_bomb_is_refused_before_its_end(caller: Caller, door: InProcess) -> None:
    """Its end never comes, and need not."""
    bomb = in_chunks(gzip.compress(bytes(30_000_000)))[:20_000]
    caller.send(HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n" + bomb)
    assert caller.reply().status == 413
    assert caller.closed()
    nothing_left(door)


@needs_zstd
def test_a_tiny_bomb_is_refused(caller: Caller, door: InProcess) -> None:
    for data, header in (
        (zstd(bytes(30_000_000)), "zstd"),
        (gzip.compress(zstd(bytes(30_000_000))), "zstd, gzip"),
    ):
        with Caller(door.port) as other:
            assert other.send(post(CHAT, data, f"content-encoding: {header}")).reply().status == 413
    nothing_left(door)


def test_the_sum_of_all_bodies_counts_what_comes_out(engine: RogueEngine) -> None:
    with gateway(engine) as g, Caller(g.port) as first, Caller(g.port) as second, Caller(g.port) as small:
        first.send(post(CHAT, gzip.compress(LARGE), GZIP)[:-1])
        g.until(lambda r: r.gateway.bodies.held > 500_000)
        reply = second.send(post(CHAT, gzip.compress(chat(text="y" * 650_000)), GZIP)).reply()
        assert (reply.status, reply.error["code"]) == (503, "bodies_full")
        assert small.send(post(CHAT, gzip.compress(BODY), GZIP)).reply().status == 200
        first.sock.close()
        nothing_left(g)


@pytest.mark.parametrize("end", ["left", "timed out", "garbage"])
def test_what_was_counted_is_given_back(engine: RogueEngine, end: str) -> None:
    with gateway(engine, body_s=0.5) as g, Caller(g.port) as caller:
        caller.send(post(CHAT, gzip.compress(LARGE), GZIP)[:-1])
        g.until(lambda r: r.gateway.bodies.held > 500_000)
        if end == "left":
            caller.sock.close()
        elif end == "timed out":
            assert caller.reply().status == 408
        else:
            assert caller.send(b"\7").reply().status == 400
        nothing_left(g)


def test_a_decoded_body_counts_until_its_answer_begins(engine: RogueEngine) -> None:
    with RogueEngine(Wire.wait_for_peer_to_leave) as deaf, gateway(deaf) as g, Caller(g.port) as caller:
        caller.send(post(CHAT, gzip.compress(LARGE), GZIP))
        deaf.arrived.get(timeout=5)
        assert g.ask(lambda r: r.gateway.bodies.held) == len(LARGE)
        caller.sock.close()
        nothing_left(g)


def test_others_are_served_while_bombs_are_decoded(caller: Caller, door: InProcess) -> None:
    bomb = post(CHAT, gzip.compress(bytes(700_000)) + gzip.compress(BODY)[:-1], GZIP)
    bombers = [Caller(door.port) for _ in range(20)]
    for bomber in bombers:
        bomber.send(bomb)
    for _ in range(20):
        assert caller.chat().reply().status == 200
    for bomber in bombers:
        assert bomber.reply().status in (413, 503)
        bomber.sock.close()
    nothing_left(door)


class _Stingy(ThreadPoolExecutor):
    """Has no thread for so many calls, as where the system grants no more."""

    left = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise RuntimeError("can't start new thread")
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(
    ("body", "step"), [(BODY, 100_000), (LARGE, 100_000), (LARGE, 20_000)], ids=["small", "large", "pieces"]
)
@pytest.mark.parametrize("lacks", [1, 3])
@pytest.mark.parametrize("framed", ["length", "chunks"])
def test_a_body_for_which_there_is_no_thread_is_refused_and_the_next_is_read(
    engine: RogueEngine, body: bytes, step: int, lacks: int, framed: str
) -> None:
    executor, data = _Stingy(1), gzip.compress(body)
    head = HEAD + GZIP.encode() + b"\r\n"
    message = head + b"transfer-encoding: chunked\r\n\r\n" + in_chunks(data)
    if framed == "length":
        message = post(CHAT, data, GZIP)
    with before(engine) as g:
        g.ask(lambda _: asyncio.get_running_loop().set_default_executor(executor))
        executor.left = lacks
        for _ in range(lacks):
            with Caller(g.port) as caller:
                for at in range(0, len(message), step):
                    try:
                        caller.send(message[at : at + step])
                    except OSError:  # refused before the end of its body
                        break
                reply = caller.reply()
                assert (reply.status, reply.error["code"]) == (503, "out_of_resources")
                assert "read the request" in reply.error["message"]
        with Caller(g.port) as caller:
            assert caller.send(message).reply().status == 200
        nothing_left(g)
        assert g.ask(lambda r: next(iter(r.gateway.engines.values())).instance.state.name) == "READY"


def test_a_body_whose_thread_is_missing_for_a_later_slice_is_refused(engine: RogueEngine) -> None:
    executor, message = _Stingy(1), post(CHAT, gzip.compress(LARGE), GZIP)
    with before(engine) as g, Caller(g.port) as caller, Caller(g.port) as other:
        g.ask(lambda _: asyncio.get_running_loop().set_default_executor(executor))
        caller.send(message[:-2000])
        g.until(lambda r: r.gateway.bodies.held > 580_000)  # all but the end is decoded
        executor.left = 1
        reply = caller.send(message[-2000:]).reply()
        assert (reply.status, reply.error["code"]) == (503, "out_of_resources")
        assert caller.send(message).reply().status == 200  # all of it had come, so the connection goes on
        assert other.send(message).reply().status == 200
        nothing_left(g)


def test_a_caller_without_a_key_is_refused_first(engine: RogueEngine) -> None:
    with before(engine, api_keys=(ApiKeySettings(key=Secret("k")),)) as g:
        for header in ("br", "gzip"):
            with Caller(g.port) as caller:
                assert caller.send(post(CHAT, BODY, f"content-encoding: {header}")).reply().status == 401
        with Caller(g.port) as caller:
            message = post(CHAT, gzip.compress(BODY), GZIP, "authorization: Bearer k")
            assert caller.send(message).reply().status == 200


def put_policy(door: InProcess, data: bytes, header: str) -> Reply:
    head = f"PUT /admin/policy HTTP/1.1\r\nhost: localhost\r\n{TOKEN}\r\ncontent-length: {len(data)}\r\n"
    with Caller(door.port) as caller:
        return caller.send(f"{head}content-encoding: {header}\r\n\r\n".encode() + data).reply()


@pytest.mark.parametrize(("header", "encode"), cases())
def test_admin_reads_them_too(door: InProcess, header: str, encode: Encode) -> None:
    reply = put_policy(door, encode(b'{"policy":"hybrid"}' + b" " * 1000), header)
    assert (reply.status, json.loads(reply.body)["policy"]) == (200, "hybrid")


def test_admin_refuses_as_the_relay_does(door: InProcess) -> None:
    good = gzip.compress(b'{"policy":"hybrid"}')
    assert put_policy(door, good[:-1], "gzip").status == 400
    assert put_policy(door, good, "deflate").status == 400
    reply = put_policy(door, good, "br")
    assert (reply.status, reply.headers["accept-encoding"][:13]) == (415, "gzip, deflate")
    assert put_policy(door, gzip.compress(bytes((1 << 20) + 1)), "gzip").status == 413
    assert put_policy(door, gzip.compress(bytes(30 << 20)), "gzip").status == 413


def test_httpx_with_compressed_content(door: InProcess, engine: RogueEngine) -> None:
    engine.answers = [ok()]
    with httpx.Client(base_url=door.url, trust_env=False, verify=False) as client:
        for content in (gzip.compress(LARGE), iter([gzip.compress(LARGE)])):
            answer = client.post(CHAT, content=content, headers={"content-encoding": "gzip"})
            assert answer.status_code == 200
            assert body_of(engine.requests[-1]) == LARGE


def test_heads_without_a_coding_are_remembered_and_those_with_one_are_not(
    caller: Caller, door: InProcess
) -> None:
    """The same bytes but for the length must not be taken for a plain body."""
    for _ in range(3):
        assert caller.send(post(CHAT, gzip.compress(BODY), GZIP)).reply().status == 200
        assert caller.send(post(CHAT, BODY)).reply().status == 200
        assert caller.send(post(CHAT, BODY, GZIP)).reply().status == 400


def test_memory_goes_back_after_large_bodies() -> None:
    text = NOISE[:400_000]
    check_memory_goes_back(post(CHAT, gzip.compress(chat(text=text * 60), 1), GZIP))


def test_through_an_application_that_mounts_the_gateway(engine: RogueEngine) -> None:
    """Its server leaves the header as it is, and hands over the body compressed."""
    config = si.UnifiedServerConfig(llm_backends=[engine.url])

    async def ask() -> list[int]:
        app = si.UnifiedAPIServer(config).app
        sent = (
            ("gzip", gzip.compress(LARGE)),
            ("deflate", zlib.compress(BODY)),
            ("gzip", BODY),
            ("br", BODY),
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            answers = [
                await client.post(CHAT, content=content, headers={"content-encoding": header})
                for header, content in sent
            ]
        return [answer.status_code for answer in answers]

    engine.answers = [ok()]
    engine.requests.clear()
    assert asyncio.run(ask()) == [200, 200, 400, 415]
    assert [body_of(request) for request in engine.requests] == [LARGE, BODY]
