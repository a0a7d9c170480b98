"""The embeddings path: every caller of a merged call gets one answer, with what the engine said of its own texts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import msgspec

from sage_inference.config.settings import HealthSettings, InstanceSettings, SchedulingSettings, Settings
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from sage_inference.wire.isolation import log
from tests.fuzz.house import TIMEOUTS, Broken, CallerEnd, EngineEnd, House
from tests.fuzz.reader import Message, read_responses
from tests.fuzz.vector_answers import ANY, OF_A_TEXT, Draw, EngineSays, meaning, read, right, spoiled, vector
from tests.fuzz.wires import FakeTransport
from tests.support.rogue import RogueEngine, ok

BAD = b'"bad"'
_MODELS = 6  # the last two of them have two instances each
_MOST_CALLERS = 8
_START_S = 60.0
_EXPLOSION = "this caller's transport fails"


class _Tei(RogueEngine):
    """Says that it is a TEI, so that it has both routes of embeddings."""

    def _get(self, path: str) -> bytes:
        if path != "/info":
            return super()._get(path)
        document = {"model_id": self.model, "model_type": {"embedding": {}}, "max_input_length": 512}
        body = json.dumps(document).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _CallEnd(EngineEnd):
    """Reads what the gateway's own calls are, and no more: the other paths look at how it writes requests."""

    def _wrote(self, data: bytes) -> None:
        self._unread += data
        head, mark, rest = self._unread.partition(b"\r\n\r\n")
        length = int(head.rpartition(b"content-length: ")[2].partition(b"\r")[0]) if mark else 0
        if not mark or len(rest) < length:
            return
        if len(rest) > length or b"\r\naccept-encoding: identity\r\n" not in head:
            raise Broken(f"the engine was sent {self._unread!r}")
        self._unread = b""
        request = Message(method=b"POST", target=head.split(b" ", 2)[1], body=rest)
        self._house.loop.call_soon(self._house.on_request, self, request)


class VectorHouse(House):
    """Several models, whose calls are under way at the same time. ``answers`` counts what engines were asked."""

    answers = 0
    cases = 0

    async def _open(self) -> None:
        names = [f"m{n}" for n in range(_MODELS)] + [f"m{_MODELS - 1}", f"m{_MODELS - 2}"]
        with ExitStack() as stack:
            engines = [stack.enter_context(_Tei(ok(), model=name)) for name in names]
            instances = tuple(
                InstanceSettings(url=engine.url, name=f"e{n}", engine="tei")
                for n, engine in enumerate(engines)
            )
            settings = Settings(
                instances=instances,
                timeouts=TIMEOUTS,
                scheduling=SchedulingSettings(retries=1),
                health=HealthSettings(interval_s=1e9, failures=10**9),
            )
            self.running = RunningGateway(settings)
            await self.running.fleet.start(settings)
            # On a busy machine the first questions may time out. Without a second look callers would get errors that
            # no input is to blame for.
            await self.running.fleet.ready(self.running.gateway.engines, _START_S)
        states = {engine.instance.state for engine in self.running.gateway.engines.values()}
        assert states == {EngineState.READY}, states
        self.running.server.config.load()
        self.loop.take_over(self._dial)
        gateway = self.running.gateway
        gateway.clock = gateway.scheduler._clock = self.loop.time
        self.tasks = len(asyncio.all_tasks(self.loop))
        self.told: list[str] = []
        log.handlers[:] = [_Note(self.told)]
        log.propagate = False
        self._limits = {n: engine.window.limits for n, engine in self.running.gateway.engines.items()}

    def _dial(self, protocol: asyncio.Protocol) -> FakeTransport:
        end = _CallEnd(self, protocol)
        self.ends.append(end)
        return end.transport

    def forget(self) -> None:
        """What engines' answers taught: a case must not depend on those before it."""
        self.told.clear()
        for name, engine in self.running.gateway.engines.items():
            window = engine.window
            window.unusable = window.overloads = 0
            window.closed_until = 0.0
            window.limits = self._limits[name]
        self.running.gateway.embeddings._limits.clear()

    async def outlast(self) -> None:
        """A call may begin when the one before it has timed out, so several time-outs may pass."""
        for _ in range(_MOST_CALLERS):
            if all(caller.transport.lost for caller in self.callers):
                break
            self._pass_time()
            await self.loop.settle()
        await super().outlast()

    def check_calm(self) -> None:
        self.loop.crashes = [crash for crash in self.loop.crashes if _EXPLOSION not in crash]
        super().check_calm()
        gateway = self.running.gateway
        service, batcher = gateway.embeddings, gateway.embeddings.batcher
        windows = [
            window
            for engine in gateway.engines.values()
            if (window := engine.window).batches or window.tokens
        ]
        left = (
            batcher.jobs,
            batcher.size,
            len(batcher.merge_queues),
            len(service._calls),
            len(service._asking),
        )
        if any(left) or windows:
            raise Broken(
                f"left behind: {left} jobs, bytes, queues, calls, calls that wait; windows {windows}"
            )
        if len(asyncio.all_tasks(self.loop)) > self.tasks:
            raise Broken("a task is left behind")


class _Note(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # a machine that is busy with something else is no exception
            self._told.append(record.getMessage())


class _Asks:
    """A caller: its texts, and how it wants their vectors."""

    def __init__(self, house: VectorHouse, draw: Draw, model: bytes, pool: list[bytes], bad: bool) -> None:
        kind = draw.below(8)
        self.base64 = kind in (1, 3)
        self.native = kind == 2
        count = 1 if kind in (0, 1, 2, 4) else 1 + draw.below(4)
        self.texts = [draw.of(pool) for _ in range(count)]
        if bad:
            self.texts[draw.below(count)] = BAD
        self.leaves = draw.below(16) == 1
        self.explodes = draw.below(16) == 1
        self.end: CallerEnd = house.call()
        if self.explodes:
            self.end.transport.write = _explode  # type: ignore[method-assign]
        given = self.texts[0] if count == 1 else b"[%b]" % b",".join(self.texts)
        if self.native:
            path, body = b"/embed", b'{"model":"%b","inputs":%b}' % (model, given)
        else:
            form = b',"encoding_format":"base64"' if self.base64 else b""
            path, body = b"/v1/embeddings", b'{"model":"%b","input":%b%b}' % (model, given, form)
        self.request = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
            path,
            len(body),
            body,
        )


def _explode(data: Any) -> None:
    raise RuntimeError(_EXPLOSION)


class _Crowd:
    """The callers of one model, and how its engine misbehaves: for one text, or as it likes."""

    def __init__(self, house: VectorHouse, draw: Draw, model: int) -> None:
        self.name = b"m%d" % model
        self.isolates = draw.below(2) == 0
        salt = house.cases
        ids = draw.below(8) == 1  # of tokens, instead of texts
        pool = [(b"[%d,%d]" if ids else b'"%d/%d"') % (salt, n) for n in range(6)]
        many = 1 + draw.below(_MOST_CALLERS)
        who = draw.below(many)
        self.draw = draw
        self.program = bytes(draw.below(256) for _ in range(12)) if self.isolates else b""
        self.callers = [
            _Asks(house, draw, self.name, pool, self.isolates and not ids and n == who) for n in range(many)
        ]
        self.calls: set[tuple[bytes, ...]] = set()

    def says(self, asked: dict[str, Any], native: bool) -> EngineSays:
        given = asked["inputs" if native else "input"]
        if not isinstance(given, list) or isinstance(given[0], int):
            given = [given]
        texts = [msgspec.json.encode(text) for text in given]
        self.calls.add(tuple(texts))
        says = right(texts, base64=asked.get("encoding_format") == "base64", native=native)
        if not self.isolates:
            return spoiled(self.draw, ANY, says)
        return spoiled(Draw(self.program), OF_A_TEXT, says) if BAD in texts else says


def check(house: VectorHouse, program: bytes) -> None:
    """Raises ``Broken`` where an invariant does not hold."""
    house.loop.run_until_complete(_Case(house, program).run())


class _Case:
    """All crowds at once."""

    def __init__(self, house: VectorHouse, program: bytes) -> None:
        house.cases += 1
        house.forget()
        house.begin(self.answer)
        self.house = house
        draw = Draw(program)
        self.crowds = {
            crowd.name.decode(): crowd
            for crowd in (_Crowd(house, draw, model) for model in range(1 + draw.below(_MODELS)))
        }
        self.said: dict[bytes, set[str]] = {}

    def answer(self, end: EngineEnd, message: Message) -> None:
        self.house.answers += 1
        asked = json.loads(message.body)
        native = message.target == b"/embed"
        says = self.crowds[asked["model"]].says(asked, native)
        found = read(says.body, native)
        for text, value in zip(says.texts, found or (), strict=False):
            self.said.setdefault(text, set()).add(meaning(value))
        _send(end, says)

    async def run(self) -> None:
        house = self.house
        for crowd in self.crowds.values():
            for caller in crowd.callers:
                caller.end.transport.feed(caller.request)
        for crowd in self.crowds.values():
            for caller in crowd.callers:
                if caller.leaves:
                    caller.end.transport.end()
        await house.loop.settle()
        await house.outlast()
        house.check_calm()
        explodes = any(caller.explodes for caller in self._callers())
        if house.told and not explodes:
            raise Broken(f"an exception of ours: {house.told}")
        for crowd in self.crowds.values():
            for caller in crowd.callers:
                if not (caller.leaves or caller.explodes):
                    self._judge(crowd, caller)

    def _callers(self) -> Iterator[_Asks]:
        for crowd in self.crowds.values():
            yield from crowd.callers

    def _judge(self, crowd: _Crowd, caller: _Asks) -> None:
        sent = bytes(caller.end.transport.sent)
        alone = tuple(caller.texts) in crowd.calls  # its answer may be the engine's own, as that came
        head, _, body = sent.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next((int(line[16:]) for line in lines if line.startswith(b"content-length: ")), None)
        if length is None and alone:
            self._judge_relayed(sent)
            return
        if not lines[0].startswith(b"HTTP/1.1 ") or length is None:
            raise Broken(f"no answer to {caller.texts}: {sent!r}")
        if len(body) != length and not (alone and len(body) < length):
            raise Broken(f"not one whole answer to {caller.texts}: {sent!r}")
        status = int(lines[0][9:12])
        if status == 200 and not any(line.startswith(b"content-encoding: ") for line in lines):
            self._judge_vectors(caller, body, alone)
        elif status != 200 and crowd.isolates and BAD not in caller.texts and not self._was_misread(caller):
            raise Broken(f"another's text failed {caller.texts}: {sent!r}")
        elif status < 400 and not alone:
            raise Broken(f"a strange status for {caller.texts}: {sent!r}")

    def _was_misread(self, caller: _Asks) -> bool:
        """The change to the bad text's vector hit this caller's."""
        return any(self.said.get(text, set()) - {meaning(vector(text))} for text in caller.texts)

    def _judge_relayed(self, sent: bytes) -> None:
        got = read_responses(sent, [b"POST"], True)
        if len(got.messages) != 1 or (got.messages[0].complete and got.rest):
            raise Broken(f"not one answer: {sent!r}")

    def _judge_vectors(self, caller: _Asks, body: bytes, alone: bool) -> None:
        found = read(body, caller.native)
        if found is None or len(found) != len(caller.texts):
            if alone:
                return
            raise Broken(f"no vectors for {caller.texts}: {body!r}")
        if alone:
            return
        for text, value in zip(caller.texts, found, strict=True):
            if meaning(value) not in self.said.get(text, ()):
                raise Broken(f"{text!r} got {value!r}; the engine said {self.said.get(text)}")
            if self.wrong_form(caller, value):
                raise Broken(
                    f"{caller.texts} got {value!r} and wants {'base64' if caller.base64 else 'numbers'}"
                )

    @staticmethod
    def wrong_form(caller: _Asks, value: Any) -> bool:
        return isinstance(value, str) is not caller.base64


def _send(end: EngineEnd, says: EngineSays) -> None:
    transport, ending = end.transport, says.ending
    wire = says.wire()
    if ending == "says nothing":
        return
    if ending == "is no HTTP":
        wire = b"nonsense\r\n\r\n" + wire
    elif ending == "leaves at once":
        wire = b""
    elif ending == "goes on":
        wire += b"and more"
    elif ending.startswith("is cut"):
        wire = wire[: len(wire) * 3 // 4]
    transport.feed(wire)
    if says.framing == "end" or ending in ("closes", "is cut", "leaves at once"):
        transport.end()
    elif ending in ("resets", "is cut and resets"):
        transport.end(ConnectionResetError())
