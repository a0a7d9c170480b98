"""The soak finds what it is there to find, and its two-minute form finds nothing."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable

import pytest

from sage_inference.simulator import vectors as engine
from tests.bench.outage.heard import Ask, Heard
from tests.bench.soak import chats, rude, vectors
from tests.bench.soak.flat import Sample, rows
from tests.bench.soak.run import Shape, soak
from tests.bench.soak.wire import Answer
from tests.bench.soak.world import World

STREAM = Ask(3, True, 10, 6)
TEXT = STREAM.expected()
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"cut"}}\n\n'
TEXTS = ["one", "two"]


def event(text: str) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


def world(*, killed_a: bool = False) -> World:
    found = World(port=0)
    if killed_a:
        found.killed["a"] = [time.monotonic() + 1]
    return found


def heard(body: bytes, complete: bool, status: int = 200) -> Heard:
    return Heard(STREAM, time.monotonic(), status=status, complete=complete, body=bytearray(body))


@pytest.mark.parametrize(
    ("body", "complete", "killed", "wrong", "lost"),
    [
        (event(TEXT) + DONE, True, False, 0, 0),
        (event("another's text") + DONE, True, False, 1, 0),
        (event(TEXT[:5]) + DONE, True, True, 1, 0),
        (event(TEXT[:5]) + ERROR, False, True, 0, 0),
        (event(TEXT[:5]) + ERROR, False, False, 0, 1),
        (event(TEXT[:5]), False, True, 0, 1),
    ],
    ids=["whole", "swapped", "false end", "cut by a kill", "cut by nothing", "cut without an error event"],
)
def test_a_stream_is_judged_by_what_the_engine_had_to_say_and_what_befell_it(
    body: bytes, complete: bool, killed: bool, wrong: int, lost: int
) -> None:
    found = world(killed_a=killed)
    chats.judge(found, heard(body, complete), "a", "")
    assert (found.wrong, found.lost) == (wrong, lost)
    assert len(found.findings) == wrong + lost


def test_an_answer_that_never_came_is_lost_even_where_an_engine_was_killed() -> None:
    found = world(killed_a=True)
    chats.judge(found, heard(b"", False, status=0), "", "no end within 90 s")
    chats.judge(found, heard(b'{"error":{}}', True, status=503), "a", "")
    assert found.lost == 2


def vector_answer(order: Callable[[list[bytes]], list[bytes]]) -> Answer:
    found = order([engine.embed(vectors.MODEL, text, 384) for text in TEXTS])
    data = [{"index": i, "embedding": base64.b64encode(one).decode()} for i, one in enumerate(found)]
    return Answer(200, {}, bytearray(json.dumps({"data": data}).encode()), complete=True)


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        (lambda found: found, 0),
        (lambda found: found[::-1], 1),
        (lambda found: found[:1], 1),
        (lambda found: [found[0], found[1][:-1] + b"\x00"], 1),
    ],
    ids=["right", "swapped", "one missing", "a bit off"],
)
def test_vectors_are_compared_bit_by_bit(order: Callable[[list[bytes]], list[bytes]], wrong: int) -> None:
    found = world()
    vectors.judge(found, TEXTS, vector_answer(order))
    assert (found.wrong, found.lost) == (wrong, 0)


def test_a_refused_or_broken_answer_of_embeddings_is_lost() -> None:
    found = world()
    vectors.judge(found, TEXTS, Answer(502, {}, bytearray(b"{}"), complete=True))
    vectors.judge(found, TEXTS, Answer(200, {}, bytearray(b'{"data":'), complete=False))
    assert found.lost == 2


def test_junk_may_be_refused_or_cut_off_but_never_be_served_or_kept_waiting() -> None:
    found = world()
    rude.judge(found, "junk", Answer(400, complete=True))
    rude.judge(found, "junk", Answer(error="IncompleteReadError()"))
    assert (found.wrong, found.lost) == (0, 0)
    rude.judge(found, "junk", Answer(200, complete=True))
    rude.judge(found, "junk", Answer(502, complete=True))
    rude.judge(found, "junk", Answer(error="no end within 90 s"))
    assert (found.wrong, found.lost) == (2, 1)


def grown(**late: int) -> set[str]:
    """The claims that do not hold where the last quarter's samples differ so from the others."""
    flat = Sample(rss=100 << 20, descriptors=100, tasks=10, threads=4)
    changed = Sample(**{**{name: getattr(flat, name) for name in flat.__slots__}, **late})
    samples = [flat] * 30 + [changed] * 10
    return {
        row.claim.split(",")[0].split(" beyond")[0] for row in rows(samples, flat, flat, 5) if not row.holds
    }


@pytest.mark.parametrize(
    ("late", "claim"),
    [
        ({"rss": 110 << 20}, "memory under load"),
        ({"descriptors": 130}, "descriptors under load"),
        ({"tasks": 20}, "tasks under load"),
        ({"threads": 9}, "threads"),
    ],
)
def test_what_grows_under_load_does_not_hold(late: dict[str, int], claim: str) -> None:
    assert grown(**late) == {claim}


def test_what_stays_as_it_was_holds() -> None:
    assert grown() == set()


def test_what_is_left_when_all_have_gone_does_not_hold() -> None:
    before = Sample(rss=1, descriptors=30, tasks=10, threads=4)
    after = Sample(rss=1, descriptors=130, tasks=13, threads=4)
    failed = [row.claim for row in rows([before] * 8, before, after, 5) if not row.holds]
    assert failed == ["descriptors afterwards beyond those before", "tasks afterwards beyond those before"]


@pytest.mark.timeout(300)
def test_two_minutes_of_callers_kills_and_reloads_lose_and_change_nothing() -> None:
    # Few callers that rest for long: other tests run beside them.
    shape = Shape(minutes=2, chats=4, slow=1, vectors=2, leavers=1, junk=1, rest_s=0.25)
    outcome = soak(shape, random.randrange(1 << 31))
    failed = [row for row in outcome.rows() if not row.holds]
    assert not failed, "\n".join(
        [*map(str, failed), *outcome.world.findings, *outcome.tracebacks, outcome.log[-4000:]]
    )
    counts = outcome.world.counts
    assert counts["streams"] > 100
    assert counts["plain chats"] > 50
    assert counts["vectors"] > 1000
    assert counts["left"] > 50
    assert counts["junk refused"] > 50
    assert sum(counts[f"outages by {how}"] for how in ("kill", "hang", "drain")) >= 4
