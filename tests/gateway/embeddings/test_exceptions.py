"""Whatever is raised while an answer is read, divided, converted or written: every caller gets an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_inference.control_plane.embedding import Batcher, EmbeddingBatch
from sage_inference.control_plane.embedding.cache import VectorCache
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.engines.pool import Pool
from sage_inference.gateway.embeddings import answer, engine_error, merged_call, service
from sage_inference.gateway.embeddings.call import EmbeddingCall
from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
from sage_inference.gateway.embeddings.service import EmbeddingService
from tests.gateway.embeddings.odd import BAD, Asked, House, good, listed, odd_house, vector, with_bad

POINTS: dict[str, tuple[Any, str]] = {
    "an answer is decoded": (engine_error, "coding_of"),
    "an answer is read": (service, "read_answer"),
    "tokens are shared out": (service, "shares"),
    "vectors are handed out": (Batcher, "done"),
    "callers are looked up": (EmbeddingService, "callers"),
    "a call is halved": (Batcher, "halve"),
    "a half is sent": (EmbeddingService, "_send_half"),
    "texts are taken for a call": (Batcher, "take"),
    "a job is sent undivided": (Batcher, "send_undivided"),
    "a job is looked at to be sent undivided": (Batcher, "may_send_undivided"),
    "a caller's exchange makes its call": (Scheduler, "send"),
    "a caller's answer begins": (EmbeddingService, "relay_answer"),
    "a call's body is made": (merged_call, "call_body"),
    "a call is filled": (EmbeddingService, "fill"),
    "a connection is taken": (Pool, "acquire"),
    "an answer is noted": (EmbeddingCall, "_note_answer"),
    "a caller's body is written": (answer, "as_floats"),
    "a caller hears of progress": (EmbeddingExchange, "_arm"),
    "a caller gets its answer": (EmbeddingExchange, "_write"),
    "a caller's head is made": (EmbeddingExchange, "_head"),
    "a failure is handed out": (Batcher, "fail"),
    "a batch lists its jobs": (EmbeddingBatch, "halves"),
    "a slot is given back": (Scheduler, "first_byte"),
    "a vector is cached": (VectorCache, "put"),
}


class Fault:
    """Makes one function raise at its ``at``-th call, as long as it is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.raised = 0

    def put(self, owner: Any, name: str, error: type[Exception], *, at: int = 1, times: int = 1) -> None:
        original: Callable[..., Any] = getattr(owner, name)
        calls = 0

        def raising(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if at <= calls < at + times:
                self.raised += 1
                raise error("a fault put there by a test")
            return original(*args, **options)

        self._monkeypatch.setattr(owner, name, raising)


@pytest.fixture(scope="module")
def only_house() -> Iterator[House]:
    with odd_house() as house:
        yield house


@pytest.fixture
def house(only_house: House) -> Iterator[House]:
    only_house.engine.reset()
    only_house.door.ask(_forget)
    yield only_house
    only_house.door.until(lambda running: running.gateway.in_flight == 0)


def _forget(running: Any) -> None:
    for engine in running.gateway.engines.values():
        engine.window.unusable = 0


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


CALLERS = [
    *good(4),
    *[Asked([f"b {n}"], base64=True) for n in range(3)],
    Asked(["x", "y", "z"]),
    Asked([BAD]),
]


@pytest.mark.parametrize(
    ("at", "error"),
    [(1, ValueError), (2, RecursionError), (3, MemoryError), (5, KeyError), (8, AssertionError)],
)
@pytest.mark.parametrize(("owner", "name"), POINTS.values(), ids=POINTS.keys())
def test_an_exception_anywhere_leaves_no_caller_without_an_answer(
    house: House, fault: Fault, owner: Any, name: str, at: int, error: type[Exception]
) -> None:
    house.engine.write = with_bad(float("nan"))
    fault.put(owner, name, error, at=at)
    for reply in house.ask(CALLERS):
        assert reply.status in (200, 500, 502), reply
    for one, reply in zip(CALLERS[:2], [house.ask([one])[0] for one in CALLERS[:2]], strict=True):
        if not fault.raised:
            one.check(reply)


@pytest.mark.parametrize(
    "name", ["a caller's body is written", "a caller gets its answer", "a caller's head is made"]
)
def test_an_exception_while_one_answer_is_written_concerns_no_other(
    house: House, fault: Fault, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    house.engine.write = lambda texts, _: listed([vector(text) for text in texts])
    owner, function = POINTS[name]
    fault.put(owner, function, RuntimeError, at=4)
    asked = [Asked([f"t {n}", "more"]) for n in range(9)]
    with caplog.at_level(logging.ERROR):
        replies = house.ask(asked)
    failed = [reply for reply in replies if reply.status != 200]
    assert [reply.status for reply in failed] == [500]
    assert failed[0].error["code"] == "internal_error"
    for one, reply in zip(asked, replies, strict=True):
        if reply is not failed[0]:
            one.check(reply)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert failed[0].headers["x-request-id"] in record.getMessage()
