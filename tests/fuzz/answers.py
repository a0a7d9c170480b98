"""The response path: whatever an engine answers, the caller gets what h11 reads in it, an error, or a cut."""

from __future__ import annotations

import re
from itertools import takewhile

from tests.fuzz import seeds
from tests.fuzz.house import Broken, EngineEnd, House
from tests.fuzz.mutation import Input
from tests.fuzz.reader import Headers, Message, read_responses

_GOOD = b"HTTP/1.1 200 OK\r\nx-good: 1\r\ncontent-length: 4\r\n\r\ngood"
_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings", b"content-length",
}  # fmt: skip
# h11 takes spaces behind chunk sizes, line feeds alone, and trailers that speak of framing; we don't.
_LAX = re.compile(
    rb"\r\n[0-9a-fA-F]+[ \t;]+[\r;]|(?<!\r)\n|0\r\n(?:[^\r\n]+\r\n)*?(?:content-length|transfer-encoding)",
    re.I,
)
_OURS = (b'"upstream_error"', b'"upstream_timeout"', b'"no_healthy_instance"')


def check(house: House, given: Input) -> None:
    """Raises ``Broken`` where an invariant does not hold."""
    house.loop.run_until_complete(_Case(house, given).run())


class _Case:
    """One request, its broken answer, and a good request after it."""

    def __init__(self, house: House, given: Input) -> None:
        self.house = house
        self.given = given
        self.ending = ("stays", "closes", "resets")[given.choice % 3]
        self.slow = given.choice % 5 == 0
        self.first: EngineEnd | None = None

    def answer(self, end: EngineEnd, _: Message) -> None:
        if self.first is not None:
            end.transport.feed(_GOOD)
            return
        self.first = end
        end.transport.feed(*self.given.pieces)
        if self.ending == "closes":
            end.transport.end()
        elif self.ending == "resets":
            end.transport.end(ConnectionResetError())

    async def run(self) -> None:
        house = self.house
        house.begin(self.answer)
        caller = house.call()
        if self.slow:
            caller.protocol.pause_writing()
        caller.transport.feed(seeds.CHAT)
        await house.loop.settle()
        if self.slow:
            caller.protocol.resume_writing()
            await house.loop.settle()
        assert self.first is not None
        await self._again()
        await house.outlast()
        house.check_calm()
        self._judge(bytes(caller.transport.sent))

    async def _again(self) -> None:
        """A second caller is served, and not over a connection that is in doubt."""
        assert self.first is not None
        before = len(self.first.requests)
        caller = self.house.call()
        caller.transport.feed(seeds.CHAT)
        await self.house.loop.settle()
        if not caller.transport.sent.endswith(b"\r\n\r\ngood"):
            raise Broken(f"a good request after it got {bytes(caller.transport.sent)!r}")
        if len(self.first.requests) > before and not self._clean():
            raise Broken("the next request went over a connection in doubt")
        caller.transport.end()

    def _clean(self) -> bool:
        reading = read_responses(self.given.data, [b"POST"], False)
        kept = b"HTTP/1.0" in self.given.data and b"keep-alive" in self.given.data.lower()  # h11 keeps no 1.0
        return len(reading.whole) == 1 and (kept or reading.messages[0].reusable) and not reading.rest

    def _judge(self, sent: bytes) -> None:
        got = read_responses(sent, [b"POST"], True)
        said = read_responses(self.given.data, [b"POST"], self.ending == "closes")
        meant = said.messages[0] if said.messages else Message()
        if len(got.messages) != 1:
            raise Broken(f"the caller got {len(got.messages)} answers: {sent!r}")
        answer = got.messages[0]
        if answer.complete and got.rest:
            raise Broken(f"the caller got bytes behind the answer: {got.rest!r}")
        if answer.header(b"x-good") is not None:
            if meant.status:
                raise Broken("sent again although an answer had begun")
        elif not answer.complete:
            self._judge_cut(answer, meant)
        elif not any(mark in answer.body for mark in _OURS):
            self._judge_whole(answer, meant, said.error)

    def _judge_whole(self, answer: Message, meant: Message, error: str) -> None:
        if not meant.complete:
            raise Broken(f"a complete answer {answer} where h11 reads none: {error or 'incomplete'}")
        if (answer.status, answer.body) != (meant.status, meant.body):
            raise Broken(f"the caller got {answer.status} {answer.body!r} for {meant.status} {meant.body!r}")
        if _end_to_end(answer.headers, []) != _end_to_end(meant.headers, meant.headers):
            raise Broken(f"the caller got the headers {answer.headers} for {meant.headers}")

    def _judge_cut(self, answer: Message, meant: Message) -> None:
        if meant.complete and self.ending != "resets" and not _LAX.search(self.given.data):
            raise Broken("an answer that h11 reads whole was cut")
        theirs = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer.body, meant.body)))  # noqa: B905
        ours = answer.body[theirs:]
        # The end of an event that was sent in part, and the error.
        if ours and not (b'{"error"' in ours and ours.endswith(b"}\n\n")):
            raise Broken(f"the caller got {answer.body!r} of {meant.body!r}")


def _end_to_end(headers: Headers, engines: Headers) -> Headers:
    named = {
        token.strip().lower()
        for name, value in engines
        if name == b"connection"
        for token in value.split(b",")
    }
    ours = (b"x-request-id", b"x-accel-buffering")
    return [
        (name, value)
        for name, value in headers
        if name not in _HOP | named and name not in ours and not name.startswith(b"x-sage-")
    ]
