"""The load generators against the stream engine itself: both ends must agree before a gateway stands between."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bench.load import idle, leave, starts, streams
from tests.bench.load.connection import BROKEN, Call, connect, request
from tests.bench.mock import stream, vectors
from tests.bench.mock.frames import whole_body
from tests.bench.mock.orders import Orders
from tests.bench.process import LOAD_CORE, Process, status_of, wait_for
from tests.support.gateway import free_port


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("engine") / "log"
    process = Process([sys.executable, "-m", "tests.bench.mock.stream", str(port)], LOAD_CORE, log)
    try:
        wait_for(process, f"http://127.0.0.1:{port}/health", seconds=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


def seen(engine: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{engine}/seen") as answer:
        document: dict[str, Any] = json.load(answer)
    return document


async def answer(engine: str, orders: Orders) -> tuple[int, bytes]:
    call = await connect(engine, Call)
    status = await call.start(request(engine, "/v1/chat/completions", orders.body(stream.MODEL)))
    return status, bytes(call.body)


def test_a_tagged_stream_has_the_bytes_that_a_caller_expects(engine: str) -> None:
    assert asyncio.run(answer(engine, Orders(chunks=3, gap_us=100, tag="t"))) == (200, whole_body("t", 3))


def test_faults_come_as_ordered(engine: str) -> None:
    assert status_of(f"{engine}/v1/chat/completions", Orders(status=503).body("m")) == 503
    assert asyncio.run(answer(engine, Orders(reset=1))) == (BROKEN, b"")


def test_vectors_come_for_every_text(engine: str) -> None:
    async def embed() -> bytes:
        call = await connect(engine, Call)
        assert await call.start(request(engine, "/v1/embeddings", vectors.request(stream.MODEL))) == 200
        return bytes(call.body)

    assert asyncio.run(embed()) == vectors.answer(vectors.TEXTS, "float")


@pytest.mark.parametrize("gap_us", [0, 5_000], ids=["saturated", "paced"])
def test_streams_are_counted(engine: str, gap_us: int, capsys: pytest.CaptureFixture[str]) -> None:
    figures = asyncio.run(streams.run(engine, stream.MODEL, streams=4, gap_us=gap_us, seconds=0.2))
    assert figures["failures"] == 0
    assert figures["chunks"]
    assert ("delay_p99_us" in figures) == bool(gap_us)
    assert capsys.readouterr().out == "MARK\nMARK\n"


def test_first_chunks_of_a_wave_are_timed(engine: str) -> None:
    figures = asyncio.run(starts.run(engine, stream.MODEL, streams=3, seconds=0.0001))
    assert figures["failures"] == 0
    assert figures["start_p50_us"]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "waiting"])
def test_the_engine_notices_a_departure(engine: str, streamed: bool) -> None:
    figures = asyncio.run(leave.run_in_turn(engine, stream.MODEL, engine, streamed, times=3))
    assert figures["unheard"] == 0
    assert figures["median_ms"]
    assert figures["median_ms"] > 0


def test_a_crowd_that_leaves_is_gone(engine: str) -> None:
    figures = asyncio.run(leave.run_at_once(engine, stream.MODEL, engine, callers=20, has_status=False))
    assert figures == {"arrived": 20, "left_at_engine": 0}
    assert seen(engine)["open"] == 0


def test_a_crowd_comes_and_goes_and_those_who_are_active_are_timed_with_it_and_without(engine: str) -> None:
    before = seen(engine)["requests"]
    result = asyncio.run(idle.run(engine, connections=20, rate=20, seconds=0.2))
    assert (result["held"], result["failures"], result["before_failures"]) == (20, 0, 0)
    assert result["latency_p99_us"]
    assert result["before_latency_p99_us"]
    assert seen(engine)["requests"] - before >= idle.TURNS * 2 * 20  # each of them answers before and after
