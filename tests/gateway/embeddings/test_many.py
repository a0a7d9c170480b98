"""Many callers of all kinds at once, some of whom leave: every vector belongs to its text, and none is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sage_inference.config.settings import InstanceSettings
from tests.bench.fidelity import callers, judge
from tests.bench.fidelity.callers import Given, Sort
from tests.bench.fidelity.tap import Tap
from tests.bench.fidelity.wire import Call
from tests.gateway.embeddings.callers import MODEL
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import simulated_engine

TEXTS, CALLERS = 1500, 60
SIZE = ("--dimension", "96", "--model", MODEL, "--speed", "4")
FLEETS = {
    "two TEI, one of small calls": (("tei",), ("tei", "--max-client-batch-size", "8")),
    "vLLM": (("vllm", "--runner", "pooling"),),
}
SORTS = {"tei": callers.TEI, "vllm": callers.VLLM}


@contextmanager
def tapped(tap: Tap, fleet: tuple[tuple[str, ...], ...]) -> Iterator[InProcess]:
    with ExitStack() as stack:
        engines = [stack.enter_context(simulated_engine(*engine, *SIZE)) for engine in fleet]
        behind = [InstanceSettings(url=tap.before(one.url), name=f"e{n}") for n, one in enumerate(engines)]
        yield stack.enter_context(gateway(*behind))


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
def test_every_vector_is_its_texts_bit_by_bit_however_it_came(fleet: tuple[tuple[str, ...], ...]) -> None:
    sort: Sort = SORTS[fleet[0][0]]
    asks = list(callers.plan(sort, MODEL, texts=TEXTS, seed=1))
    with Tap() as tap, tapped(tap, fleet) as door:
        seen = tap.run(callers.everyone(door.url, tap, asks, CALLERS))
        door.until(lambda running: running.gateway.in_flight == 0)
        batcher = door.running.gateway.embeddings.batcher
        assert (batcher.jobs, batcher.size, batcher.merge_queues) == (0, 0, {})
        calls = list(tap.calls)
        got, again = judge.delivered(calls, seen.given), judge.direct(calls)
        single = judge.one_by_one(calls[0].engine, seen.given)
    assert not seen.failed
    assert seen.left > 0
    assert got.vectors >= TEXTS
    assert (got.swapped, got.altered, got.alike) == (0, 0, 0)
    assert again.differ == 0
    assert len(again.shapes) > 5
    assert len({call.engine for call in calls if call.answered}) == len(fleet)
    assert single.equal == single.texts


def _answer(*vectors: list[float]) -> bytes:
    return json.dumps({"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]}).encode()


ASKED = b'{"model": "m", "input": ["a", "b"]}'
CALL = Call("http://engine", "/v1/embeddings", ASKED, 200, _answer([1.0, 0.5], [0.0, 0.25]))


@pytest.mark.parametrize(
    ("answer", "swapped", "altered"),
    [
        (_answer([1.0, 0.5], [0.0, 0.25]), 0, 0),
        (_answer([0.0, 0.25], [1.0, 0.5]), 2, 0),
        (_answer([1.0, 0.5], [0.0, 0.25000003]), 0, 1),
    ],
    ids=["right", "two swapped", "a bit changed"],
)
def test_what_would_be_wrong_is_seen(answer: bytes, swapped: int, altered: int) -> None:
    got = judge.delivered([CALL], [Given("/v1/embeddings", ASKED, answer)])
    assert (got.vectors, got.swapped, got.altered) == (2, swapped, altered)


def test_texts_with_one_vector_are_told_since_their_swap_would_not_be_seen() -> None:
    same = Call("http://engine", "/v1/embeddings", ASKED, 200, _answer([1.0, 0.5], [1.0, 0.5]))
    assert judge.delivered([same], []).alike == 2
