"""The request path: whatever a caller sends, engines get what h11 reads in it, or nothing."""

from __future__ import annotations

import json

from tests.fuzz import seeds
from tests.fuzz.codings import plain
from tests.fuzz.house import Broken, EngineEnd, House
from tests.fuzz.mutation import Input
from tests.fuzz.reader import Headers, Message, Reading, read_requests, read_responses

# What the gateway keeps from the engine or makes anew (RFC 9110 section 7.6.1, and its own headers).
_OWN = {
    b"host",
    b"via",
    b"x-request-id",
    b"content-length",
    b"content-encoding",  # it gets the body without
    b"accept-encoding",  # none but identity for vectors, which may have to be read
    b"expect",
    b"x-sage-priority",
    b"x-sage-deadline-ms",
}
_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
}  # fmt: skip
_NUMBER = b"x-engine-number"


def check(house: House, given: Input) -> None:
    """Raises ``Broken`` where an invariant does not hold."""
    house.loop.run_until_complete(_check(house, given))


class _Engine:
    """Numbers its answers. One in ``halves`` holds the second half of each back until it is told to ``go_on``."""

    def __init__(self, halves: bool) -> None:
        self._halves = halves
        self._answered = 0
        self._owed: list[tuple[EngineEnd, bytes]] = []

    def answer(self, end: EngineEnd, _: Message) -> None:
        head = b"HTTP/1.1 200 OK\r\n%b: %d\r\ncontent-length: 2\r\n\r\n" % (_NUMBER, self._answered)
        self._answered += 1
        if self._halves:
            end.transport.feed(head + b"{")
            self._owed.append((end, b"}"))
        else:
            end.transport.feed(head + b"{}")

    def go_on(self) -> bool:
        """Whether anything was held back."""
        owed, self._owed = self._owed, []
        for end, rest in owed:
            end.transport.feed(rest)
        return bool(owed)


async def _check(house: House, given: Input) -> None:
    if not house.ends:  # over a connection that must be made first, less would reach the engine
        house.begin(_Engine(halves=False).answer)
        house.call().transport.feed(seeds.CHAT)
        await house.loop.settle()
        house.callers[0].transport.end()
    engine = _Engine(halves=given.choice % 4 == 1)
    house.begin(engine.answer)
    caller = house.call()
    caller.transport.feed(*given.pieces)
    await house.loop.settle()
    while engine.go_on():
        await house.loop.settle()
    kept = not caller.transport.lost
    if given.choice % 4 == 0:
        caller.transport.end()
    await house.outlast()
    house.check_calm()
    _judge(given.data, bytes(caller.transport.sent), [request for _, request in house.arrived], kept)


def _judge(data: bytes, sent: bytes, arrived: list[Message], kept: bool) -> None:
    """``kept``: the gateway did not close the connection by itself."""
    said = read_requests(data)
    methods = [message.method for message in said.messages]
    if said.rest.startswith(b"HEAD ") and len(said.whole) == len(said.messages):
        methods.append(b"HEAD")  # h11 didn't get so far, the gateway may have
    got = read_responses(sent, methods, True)
    if got.error:
        raise Broken(f"the caller got what is no HTTP ({got.error}): {sent!r}")
    if kept and not said.error and len(got.whole) < len(said.whole):
        raise Broken(
            f"{len(said.whole)} requests and only {len(got.whole)} answers, on a connection kept open"
        )
    relayed = 0
    for number, response in enumerate(got.messages):
        mark = response.header(_NUMBER)
        if mark is None:
            continue
        if int(mark) != relayed:
            raise Broken(f"answer {mark!r} came in the place of answer {relayed}")
        _same(said, number, arrived[relayed])
        relayed += 1
    if len(arrived) > relayed and got.messages and got.messages[-1].header(b"connection") == b"close":
        raise Broken(
            f"{arrived[relayed].body!r} reached the engine behind the answer that ended the connection"
        )
    # One more may have reached the engine: its answer was cut when what followed it made no sense.
    for number, request in enumerate(arrived[relayed:], len(got.messages)):
        _same(said, number, request)
    if len(arrived) > relayed + 1:
        raise Broken(f"{len(arrived)} requests reached the engine, {relayed} answers came back")


def _same(said: Reading, number: int, request: Message) -> None:
    """The engine's request is the caller's number ``number``, as an independent reader reads it."""
    whole = said.whole
    if number >= len(whole):
        raise Broken(
            f"the engine got {request.method!r} {request.target!r} {request.body!r}, "
            f"which h11 doesn't read: {said.error or 'incomplete'}"
        )
    meant = whole[number]
    if request.method != meant.method or request.target != _origin_form(meant.target):
        raise Broken(
            f"the engine got {request.method!r} {request.target!r} for {meant.method!r} {meant.target!r}"
        )
    coded = b",".join(value for name, value in meant.headers if name == b"content-encoding")
    body = plain(coded, meant.body) if coded else meant.body
    if body is None:
        raise Broken(f"the engine got the body {request.body!r} for {meant.body!r}, which is no {coded!r}")
    if request.body != body and not _model_filled_in(body, request.body):
        raise Broken(f"the engine got the body {request.body!r} for {body!r}")
    if _end_to_end(request.headers) != _end_to_end(meant.headers):
        raise Broken(f"the engine got the headers {request.headers} for {meant.headers}")


def _origin_form(target: bytes) -> bytes:
    if target.startswith(b"/"):
        return target
    _, _, rest = target.partition(b"://")
    return b"/" + rest.partition(b"/")[2]


def _model_filled_in(caller: bytes, engine: bytes) -> bool:
    try:
        # As Latin-1: what is no UTF-8 inside of values is for the engine to refuse.
        before, after = json.loads(caller.decode("latin-1")), json.loads(engine.decode("latin-1"))
    except ValueError:
        return False
    return not before.get("model") and after == {**before, "model": "m"}


def _end_to_end(headers: Headers) -> Headers:
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name not in _OWN | _HOP | named]
