"""Callers that a server lets starve show in the figures, whenever their requests were due and whatever became of them."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sage_inference.bench.exchange import TIMEOUT, Kind, PreparedRequest, TimedExchange
from sage_inference.bench.measurement import Progress
from sage_inference.bench.plan import Closed, Open, Replay
from sage_inference.bench.report import Report
from sage_inference.bench.trace import TraceRow
from sage_inference.bench.waits import Waits, waiting
from sage_inference.bench.window import Window
from sage_inference.cli import benchprogress
from sage_inference.cli.benchschemas import BENCH, WAITING
from tests.bench_tool.driving import measured, plan
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, raw, sse

TEXT = '{"choices":[{"index":0,"delta":{"content":"x"}}]}'


def whole(body: bytes) -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return raw(head + body)


ANSWERS = {
    Kind.CHAT: whole(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'),
    Kind.STREAM: raw(sse(TEXT, TEXT, "[DONE]") + chunk(b"")),
    Kind.EMBEDDINGS: whole(b'{"data":[{"embedding":[1]}]}'),
}
ANSWER_S = 0.01  # so that the callers do not use up the machine
FIRST = sse(TEXT)
REST = chunk(f"data: {TEXT}\n\n".encode()) + chunk(b"data: [DONE]\n\n") + chunk(b"")


class Unfair(RogueEngine):
    """Answers at once, but for the requests of the load with a number in ``starved``: those wait for ``go``."""

    def __init__(
        self, answer: Answer, starved: Iterable[int], before: bytes = b"", after: bytes = b""
    ) -> None:
        super().__init__(self._turn)
        self._answer = answer
        self._starved = frozenset(starved)
        self._before = before  # the part of an answer that even a starved request gets at once
        self._after = after
        self._numbers = itertools.count()  # 0 is the request that is tried before the load
        self._numbers_lock = threading.Lock()
        self._arrived_at = math.inf
        self.stood_still_s = (
            0.0  # the longest time of the load without a request: this process or the generator hung
        )

    def _turn(self, wire: Wire) -> None:
        with self._numbers_lock:
            number = next(self._numbers)
            now = time.monotonic()
            if number > 0:
                self.stood_still_s = max(self.stood_still_s, now - self._arrived_at)
                self._arrived_at = now
        if number not in self._starved:
            time.sleep(ANSWER_S)
            self._answer(wire)
            self.stood_still_s = max(self.stood_still_s, time.monotonic() - now - ANSWER_S)
            return
        wire.send(self._before or b"")
        self.go.wait(30)
        wire.send(self._after) if self._before else self._answer(wire)

    def release_at_the_end(self, progress: Progress) -> None:
        if progress.share == 1.0:
            self.go.set()


STARVED = {2, 5, 9}
Found = TypeVar("Found")


def while_nothing_stands_still(run: Callable[[Unfair], Found], *engine: Any) -> Found:
    """What ``run`` returned for a fresh engine, the fifth one at the latest.

    A busy machine that stops the engine or the generator for half of so short a load starves every caller.
    """
    for _ in range(5):
        with Unfair(*engine) as unfair:
            found = run(unfair)
        if unfair.stood_still_s < 0.1:
            break
    return found


def assert_three_starve(report: Report, *, at_least_s: float) -> None:
    found = report.total.waiting
    assert (found.starving, found.throughout, found.unanswered) == (3, 3, 0)
    assert found.due_in_warmup >= 3
    assert found.longest_s is not None
    assert found.longest_s >= at_least_s
    assert found.long is not None
    assert found.long >= 3
    assert found.long_at_a_time is not None
    assert 2.5 < found.long_at_a_time < 5
    [warning] = report.warnings
    assert warning.startswith("starving callers: 3 ")
    assert "3 got nothing during the whole load" in warning


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        (Kind.CHAT, Closed(10)),
        (Kind.STREAM, Closed(10)),
        (Kind.EMBEDDINGS, Closed(10)),
        (Kind.STREAM, Open(200.0)),
        (Kind.EMBEDDINGS, Open(200.0)),
    ],
    ids=str,
)
def test_callers_that_wait_since_the_warm_up_are_shown(kind: Kind, load: Closed | Open) -> None:
    report = while_nothing_stands_still(
        lambda engine: measured(
            plan(engine.port, load, kind, warmup_s=0.2, duration_s=0.4), engine.release_at_the_end
        ),
        ANSWERS[kind],
        STARVED,
    )
    # Without the waits this is a fast server: no request due in the measured time waited for long.
    assert report.total.sent == report.total.ok > 0
    assert_three_starve(report, at_least_s=0.4)


def test_a_stream_that_stalls_after_its_first_piece_starves_its_caller() -> None:
    report = while_nothing_stands_still(
        lambda engine: measured(
            plan(engine.port, Closed(10), "stream", warmup_s=0.2, duration_s=0.4), engine.release_at_the_end
        ),
        ANSWERS[Kind.STREAM],
        STARVED,
        FIRST,
        REST,
    )
    assert_three_starve(report, at_least_s=0.4)


@pytest.mark.parametrize("before", [b"HTTP/1.1 200 OK\r\n", FIRST], ids=["head begun", "stalled"])
def test_callers_that_are_never_answered_are_counted_once_however_often_they_ask(before: bytes) -> None:
    """A caller asks again when its time is over, and so is several requests."""
    with RogueEngine(ANSWERS[Kind.STREAM]) as engine:
        hungry: set[int] = set()
        lock = threading.Lock()

        def first_six_starve(wire: Wire) -> None:
            with lock:
                waits = len(engine.requests) > 1 and len(hungry) < 6
                if waits:
                    hungry.add(len(hungry))
            if waits:
                wire.send(before)
                wire.wait_for_peer_to_leave()
            else:
                time.sleep(ANSWER_S)
                ANSWERS[Kind.STREAM](wire)

        engine.answers = [first_six_starve]
        report = measured(plan(engine.port, Closed(2), "stream", duration_s=1.5, timeout_s=0.2))
    found = report.total.waiting
    assert report.total.errors[TIMEOUT].count == 6
    assert (found.starving, found.unanswered) == (2, 2)
    assert "2 got no answer at all" in report.warnings[0]


def test_a_caller_that_starves_from_some_moment_of_the_measured_time_on_is_shown() -> None:
    chosen = threading.Lock()

    def starves_one(wire: Wire) -> None:
        if time.monotonic() > began + 0.4 and chosen.acquire(blocking=False):
            engine.go.wait(30)
        ANSWERS[Kind.CHAT](wire)

    def release(progress: Progress) -> None:
        if progress.share == 1.0:
            engine.go.set()

    with RogueEngine(starves_one) as engine:
        began = time.monotonic()
        report = measured(plan(engine.port, Closed(4), warmup_s=0.1, duration_s=1.2), release)
    found = report.total.waiting
    assert (found.starving, found.throughout, found.unanswered) == (1, 0, 0)


def test_callers_that_wait_again_and_again_are_seen_in_how_many_wait_long_at_a_time() -> None:
    """Each wait ends within the measured time, and they are few among the requests; yet two callers always wait."""
    slots = threading.Semaphore(2)

    def unfair(wire: Wire) -> None:
        if len(engine.requests) > 1 and slots.acquire(blocking=False):
            time.sleep(0.2)
            slots.release()
        else:
            time.sleep(0.002)
        ANSWERS[Kind.CHAT](wire)

    with RogueEngine(unfair) as engine:
        report = measured(plan(engine.port, Closed(8), duration_s=1.0))
    found = report.total.waiting
    assert found.long_share is not None
    assert found.long_share < 0.1
    assert found.long_at_a_time is not None
    assert found.long_at_a_time > 1.4
    assert (found.starving, report.warnings) == (0, ())


@pytest.mark.parametrize(
    ("kind", "load"),
    [(Kind.STREAM, Closed(10)), (Kind.EMBEDDINGS, Closed(10)), (Kind.CHAT, Open(200.0))],
    ids=str,
)
def test_a_fair_server_lets_nobody_starve(kind: Kind, load: Closed | Open) -> None:
    shares = []
    for _ in range(3):  # a machine that stands still for 100 ms lets twenty callers wait at once
        with Unfair(ANSWERS[kind], ()) as engine:
            report = measured(plan(engine.port, load, kind, warmup_s=0.1, duration_s=0.5))
        found = report.total.waiting
        assert (found.starving, found.throughout, found.unanswered) == (0, 0, 0)
        assert found.long_share is not None
        shares.append(found.long_share)
        if found.long_share < 0.2:
            break
    assert min(shares) < 0.2
    assert report.warnings == ()


def test_a_queue_in_order_of_arrival_starves_nobody_though_it_grows() -> None:
    # A lock alone would not do: it passes those who wait in any order.
    arrivals, changed = itertools.count(), threading.Condition()
    turns = [0]

    def one_after_another(wire: Wire) -> None:
        with changed:
            mine = next(arrivals)
            changed.wait_for(lambda: turns[0] == mine, timeout=20)
        time.sleep(0.01)
        with changed:
            turns[0] = mine + 1
            changed.notify_all()
        ANSWERS[Kind.CHAT](wire)

    with RogueEngine(one_after_another) as engine:
        report = measured(plan(engine.port, Open(200.0), duration_s=0.6))
    found = report.total.waiting
    assert found.longest_s is not None
    assert found.longest_s > 0.4
    assert (found.starving, found.throughout, found.unanswered) == (0, 0, 0)


def test_a_run_that_is_stopped_shows_who_still_waits() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.elapsed_s > 0.7:
            os.kill(os.getpid(), signal.SIGINT)

    report = while_nothing_stands_still(
        lambda engine: measured(plan(engine.port, Closed(10), warmup_s=0.2, duration_s=60.0), interrupt),
        ANSWERS[Kind.CHAT],
        STARVED,
    )
    found = report.total.waiting
    assert report.interrupted
    assert (found.starving, found.throughout, found.unanswered) == (3, 3, 3)
    assert found.longest_s is not None
    assert 0.5 < found.longest_s < 30


def test_progress_has_the_age_of_the_oldest_request() -> None:
    ages: list[float] = []

    def note(progress: Progress) -> None:
        ages.append(progress.oldest_s)
        engine.release_at_the_end(progress)

    with Unfair(ANSWERS[Kind.CHAT], {2}) as engine:
        measured(plan(engine.port, Closed(4), duration_s=0.5), note)
    assert 0.35 < max(ages) < 20
    assert ages[:3] == sorted(ages[:3])
    shown = benchprogress._line(Progress(70.0, 1.0, 9, 0, 3, 62.4, 0.0))
    assert shown == "100%  70 s  9 ok, 3 in flight (the oldest for 62 s), 0/s"


def test_a_run_that_is_stopped_in_its_warm_up_has_no_waits() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.ok:
            os.kill(os.getpid(), signal.SIGINT)

    with Unfair(ANSWERS[Kind.CHAT], STARVED) as engine:
        report = measured(plan(engine.port, Closed(4), warmup_s=60.0, duration_s=60.0), interrupt)
    found = report.total.waiting
    assert (found.requests, found.longest_s, found.starving, report.warnings) == (0, None, 0, ())


def slow(seconds: float) -> Answer:
    def answer(wire: Wire) -> None:
        time.sleep(seconds)
        ANSWERS[Kind.CHAT](wire)

    return answer


def test_a_run_shorter_than_an_answer_calls_nobody_starving_and_says_so() -> None:
    with RogueEngine(slow(0.4)) as engine:
        report = measured(plan(engine.port, Closed(5), warmup_s=0.1, duration_s=0.1))
    found = report.total.waiting
    assert report.total.sent == 0
    assert (found.starving, found.throughout, found.due_in_warmup) == (0, 5, 5)
    assert found.median_s is not None
    assert found.median_s >= 0.4
    [warning] = report.warnings
    assert warning.startswith("half of the chat requests waited over 0.4")
    assert warning.endswith("s, and 0.10 s were measured: give a longer --duration")


def test_where_nobody_is_answered_all_wait_and_none_is_worse_off() -> None:
    def never(wire: Wire) -> None:
        wire.wait_for_peer_to_leave()

    with RogueEngine(ANSWERS[Kind.CHAT], never) as engine:
        report = measured(plan(engine.port, Closed(3), duration_s=0.2, timeout_s=0.5))
    found = report.total.waiting
    assert (found.starving, found.throughout, found.unanswered) == (0, 3, 3)
    assert (found.median_s, found.long, found.long_share, found.long_at_a_time) == (None, None, None, None)


@pytest.mark.parametrize(
    ("load", "requests"),
    [
        (Closed(10), 200),
        (Open(300.0), 150),
        (Replay([TraceRow(number * 4.0, 3, 2) for number in range(150)]), None),
    ],
    ids=["closed", "open", "trace"],
)
def test_a_number_of_requests_ends_before_those_that_wait(
    load: Closed | Open | Replay, requests: int | None
) -> None:
    def release(progress: Progress) -> None:
        if progress.in_flight == 3 and progress.ok > 100:
            engine.go.set()

    with Unfair(ANSWERS[Kind.CHAT], {1, 2, 3}) as engine:
        report = measured(plan(engine.port, load, requests=requests), release)
    found = report.total.waiting
    assert (found.starving, found.unanswered, found.due_in_warmup) == (3, 0, 0)


def test_each_kind_is_compared_with_its_own_median() -> None:
    def by_kind(wire: Wire) -> None:
        embeds = b"/v1/embeddings" in wire.head
        time.sleep(0.002 if embeds else 0.1)
        ANSWERS[Kind.EMBEDDINGS if embeds else Kind.CHAT](wire)

    with RogueEngine(by_kind) as engine:
        report = measured(plan(engine.port, Closed(6), "chat=1,embeddings=1", duration_s=1.0))
    assert report.total.waiting.median_s is None
    assert report.total.waiting.requests == sum(one.waiting.requests for one in report.kinds.values())
    assert report.total.waiting.starving == 0
    assert report.total.waiting.long_share is not None
    assert report.total.waiting.long_share < 0.2


def test_the_report_and_its_json_have_the_waits(tmp_path: Path) -> None:
    # Nobody lets the three go: their time is over after the run's.
    times = ("--duration", "0.5", "--warmup", "0.3", "--timeout", "1.2")
    args = ("--kind", "chat", "--concurrency", "10", "--no-ceiling", *times)

    def printed(*more: str) -> str:
        shown = while_nothing_stands_still(
            lambda engine: sage(tmp_path, "bench", "--url", engine.url, *args, *more, timeout=60),
            ANSWERS[Kind.CHAT],
            STARVED,
        )
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    text, document = printed(), json.loads(printed("--json"))
    assert "3 callers during the whole load" in text
    assert "warning     starving callers: 3 " in text
    assert mistakes(document, BENCH) == []
    assert mistakes(document["total"]["waiting"], WAITING) == []
    assert document["total"]["waiting"]["starving"] == 3
    assert document["kinds"]["chat"]["waiting"] == document["total"]["waiting"]
    assert document["warnings"][0].startswith("starving callers: 3 ")


def test_a_run_in_which_no_request_was_due_fails_in_words(tmp_path: Path) -> None:
    with RogueEngine(slow(0.5)) as engine:
        shown = sage(
            tmp_path,
            *("bench", "--url", engine.url, "--kind", "chat", "--no-ceiling", "--warmup", "0.1"),
            *("--duration", "0.1"),
            timeout=60,
        )
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[-1].startswith("no request was due in the measured time")
    assert "warning     half of the chat requests waited over 0.5" in shown.stdout


# The measured time here is from 10 to 20.
def wait_of(
    due: float, *arrivals: float, ended: float, error: str | None = None
) -> tuple[float, float] | None:
    waits = Waits()
    waits.add(exchange(due, arrivals, error), Window(10.0, 20.0), ended)
    return next(((one.begin, one.end) for one in waits), None)


def exchange(
    due: float, arrivals: Iterable[float] = (), error: str | None = None, caller: int = 0
) -> TimedExchange:
    made = TimedExchange(PreparedRequest(Kind.STREAM, b""), due, caller)
    made.reading.arrivals = list(arrivals)
    made.error = error
    return made


@pytest.mark.parametrize(
    ("due", "arrivals", "ended", "found"),
    [
        (11, (), 13, (11, 13)),
        (5, (), 13, (5, 13)),
        (5, (), 30, (5, 30)),
        (5, (), 9, None),
        (20, (), 22, None),
        (11, (12, 12.1, 15), 15.1, (12.1, 15)),
        (1, (8, 8.5, 11), 11.1, (8.5, 11)),  # seven seconds before the first piece were no part of the load
        (18, (19, 19.5, 26), 40, (19.5, 26)),
        (19, (21, 25), 40, (19, 21)),  # later pieces came when the load was over
    ],
)
def test_only_waits_of_which_the_measured_time_saw_a_part_count(
    due: float, arrivals: tuple[float, ...], ended: float, found: tuple[float, float] | None
) -> None:
    assert wait_of(due, *arrivals, ended=ended) == found


def fast(waits: Waits, window: Window) -> None:
    for number in range(20):
        waits.add(exchange(11 + number / 10, caller=number), window, 11.1 + number / 10)


@pytest.mark.parametrize(
    ("due", "ended", "error", "counts"),
    [
        (9, 21, None, (1, 1, 0)),
        (9, 15, None, (1, 0, 0)),  # half of it, and a second before
        (4, 11, None, (1, 0, 0)),  # most of it before the load
        (4, 10.2, None, (0, 0, 0)),  # nearly all of it before the load
        (11, 15.9, None, (0, 0, 0)),  # long, and not half of the load
        (11, 11.29, None, (0, 0, 0)),
        (11, 12, TIMEOUT, (1, 0, 1)),
        (11, 11.2, TIMEOUT, (0, 0, 0)),
        (9, 21, "http_503", (1, 1, 0)),
        (9, 21, "reset", (1, 1, 0)),
    ],
)
def test_who_starves(due: float, ended: float, error: str | None, counts: tuple[int, int, int]) -> None:
    window, waits = Window(10.0, 20.0), Waits()
    fast(waits, window)
    waits.add(exchange(due, (), error, caller=50), window, ended)
    found = waiting([waits], window)
    assert (found.starving, found.throughout, found.unanswered) == counts


def test_quick_refusals_make_no_other_wait_look_long() -> None:
    window, waits = Window(10.0, 20.0), Waits()
    for number in range(50):
        waits.add(exchange(11, (), "http_429", caller=number), window, 11.001)
        waits.add(exchange(12, caller=number), window, 13)
    found = waiting([waits], window)
    assert (found.median_s, found.long, found.requests) == (1.0, 0, 100)


def test_how_many_wait_long_at_a_time_is_their_time_beyond_the_limit() -> None:
    window, waits = Window(10.0, 20.0), Waits()
    fast(waits, window)
    waits.add(exchange(5, caller=50), window, 30)  # beyond 5.3 all the time
    waits.add(exchange(14.7, caller=51), window, 25)  # beyond 15: half of the time
    found = waiting([waits], window)
    assert found.long_at_a_time == pytest.approx(1.5)
