"""The source of Ray's replicas, before a dashboard and replicas that answer in every way."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import SourceSettings
from sage_inference.discovery import ray as ray_source
from sage_inference.discovery import ray_places
from sage_inference.discovery.ray import RaySource
from sage_inference.discovery.source import Listing, SourceError
from sage_inference.discovery.vetting import MOST_ENGINES
from tests.support.gateway import free_port
from tests.support.ray_cluster import RayCluster, answer, ray_cluster, recorded

ENGINE = "http://127.0.0.1:9001"


@pytest.fixture(scope="module")
def shared() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        cluster.add(ENGINE)
        yield cluster


@pytest.fixture
def cluster(shared: RayCluster) -> Iterator[RayCluster]:
    """One with one replica, whose dashboard a test may spoil."""
    yield shared
    shared.raw, shared.then = None, "close"


@pytest.fixture
def own() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


@asynccontextmanager
async def source_of(url: str, **keys: Any) -> AsyncIterator[RaySource]:
    source = RaySource(SourceSettings(ray=url, **keys))
    try:
        yield source
    finally:
        await source.aclose()


def look(url: str, **keys: Any) -> Listing:
    async def one() -> Listing:
        async with source_of(url, **keys) as source:
            return await source.look()

    return asyncio.run(one())


def failure(url: str, **keys: Any) -> str:
    with pytest.raises(SourceError) as caught:
        look(url, **keys)
    return str(caught.value)


def test_each_replica_is_an_engine_with_the_keys_of_the_source(own: RayCluster) -> None:
    first, second = own.add(ENGINE), own.add("http://127.0.0.1:9002/v1", "sage-engines.bge-m3")
    own.places[second] |= {"node": "gpu2", "gpu": 1}
    listing = look(own.url, kind="llm", model="qwen", api_key=Secret("k"), max_concurrent_requests=7)
    assert listing.settled
    assert listing.skipped == ()
    one, two = listing.offered
    assert (one.settings.url, one.settings.name, one.node) == (ENGINE, f"sage-engines.{first}", "gpu1")
    assert (two.settings.url, two.settings.name) == ("http://127.0.0.1:9002", f"sage-engines.bge-m3.{second}")
    assert (two.node, two.settings.gpu) == ("gpu2", "gpu2/1")  # gpu 1 of another node is another one
    assert (one.settings.kind, one.settings.model, one.settings.max_concurrent_requests) == ("llm", "qwen", 7)
    assert one.settings.api_key == Secret("k")


def test_a_replica_is_asked_once_and_forgotten_when_it_leaves(own: RayCluster) -> None:
    async def run() -> None:
        async with source_of(own.url) as source:
            await source.look()
            again = await source.look()
            assert own.asked == [first]
            own.remove(first)
            second = own.add(ENGINE)
            listing = await source.look()
            assert [each.settings.name for each in listing.offered] == [f"sage-engines.{second}"]
            assert own.asked == [first, second]
            assert again.offered[0].settings.url == ENGINE

    first = own.add(ENGINE)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"url": "http://10.9.8.7:8001"}, "which is not on its own machine 127.0.0.1"),
        ({"url": "http://127.0.0.1.evil.example:8001"}, "not on its own machine"),
        ({"url": "unix:/run/vllm.sock"}, "not on its own machine"),
        ({"url": "ftp://127.0.0.1:8001"}, "ftp:// is not supported"),
        ({"url": "http://127.0.0.1:8001/?model=x"}, "no part of an engine's address"),
        ({"url": "http://me:secret@127.0.0.1:8001"}, "must not hold user:password@"),
        ({"url": ENGINE, "replica": "another"}, "is another replica by now, another"),
        ({"url": 5}, "does not answer GET"),
        ({"pid": 4}, "url"),
        ([], "does not answer GET"),
        (answer(b"\xff"), "does not answer GET"),
        (answer(b"[" * 60_000), "does not answer GET"),
        (answer(b" " * 70_000), "answers with more than 64 KiB"),
        (answer(b"{}", "503 Service Unavailable"), "answers 503"),
        (answer(b"", "302 Found", "location: http://127.0.0.1:1/"), "answers 302"),
        (answer(b"{}")[:-1], "broke its answer off"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "does not speak HTTP properly"),
    ],
    ids=range(17),
)
def test_a_replica_without_a_good_answer_is_skipped_and_the_others_count(
    own: RayCluster, place: Any, words: str
) -> None:
    good, bad = own.add(ENGINE), own.add(ENGINE)
    own.places[bad] = place
    listing = look(own.url)
    assert [each.settings.name for each in listing.offered] == [f"sage-engines.{good}"]
    (sentence,) = listing.skipped
    assert sentence.startswith(f"replica sage-engines.{bad} ")
    assert words in sentence
    assert "secret" not in sentence


def test_a_replica_that_does_not_answer_is_asked_again_later(own: RayCluster) -> None:
    now = [100.0]

    async def run() -> None:
        source = RaySource(SourceSettings(ray=own.url), clock=lambda: now[0])
        replica = own.add(ENGINE)
        good = own.places[replica]
        own.places[replica] = answer(b"", "500 No")
        for _ in range(3):
            listing = await source.look()
            assert len(listing.skipped) == 1
        assert len(own.asked) == 1
        now[0] += 1.1
        await source.look()
        now[0] += 1.1  # the second wait is longer
        await source.look()
        assert len(own.asked) == 2
        own.places[replica] = good
        now[0] += 1.1
        assert (await source.look()).offered
        await source.aclose()

    asyncio.run(run())


def test_a_silent_replica_delays_a_look_by_its_limit_only(
    own: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_places, "_ANSWER_S", 0.2)
    good, silent = own.add(ENGINE), own.add(ENGINE)
    own.places[silent] = b""
    listing = look(own.url)
    assert [each.settings.name for each in listing.offered] == [f"sage-engines.{good}"]
    assert listing.skipped == (f"replica sage-engines.{silent} does not answer within 0.2 s",)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (answer(b"<html>Ray</html>"), "is a web page"),
        (answer(b"{}"), "another form"),
        (answer(recorded("running"))[:-100], "broke its answer off"),
        (b"", "ends the connection without an HTTP answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "without an HTTP answer"),
        (answer(b"oops \x1b[31m", "500 Internal Server Error"), "answers 500: oops \\x1b[31m"),
        (answer(b"", "503 Service Unavailable"), "answers 503: nothing more"),
        (
            answer(b"", "401 Unauthorized"),
            "refuses the question with 401; it needs a token: set sources[].token",
        ),
        (answer(b"", "403 Forbidden"), "refuses the question with 403"),
        (answer(b"404", "404 Not Found"), "is this the address of Ray's dashboard?"),
        (
            answer(b"", "307 T", "location: http://me:pw@evil.example/x?y=z"),
            "sends on to evil.example/x, which is",
        ),
        (answer(b"", "302 Found"), "sends on to nowhere"),
        (
            answer(gzip.compress(bytes(1 << 26)), "200 OK", "content-encoding: gzip"),
            "the content coding gzip",
        ),
    ],
    ids=range(13),
)
def test_an_unusable_answer_of_the_dashboard_has_its_reason(
    cluster: RayCluster, raw: bytes, words: str
) -> None:
    cluster.raw = raw
    assert words in failure(cluster.url)


def test_an_endless_answer_ends_at_the_limit(cluster: RayCluster) -> None:
    cluster.raw, cluster.then = b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"applications":', "endless"
    assert failure(cluster.url) == "the dashboard answers with more than 16,384 KiB"


@pytest.mark.parametrize(
    "raw", [b"", answer(recorded("running"))[:-1], b"HTTP/1.1 200 OK\r\nx: "], ids=range(3)
)
def test_a_dashboard_that_falls_silent_is_given_up(
    cluster: RayCluster, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_source, "_DASHBOARD_S", 0.2)
    cluster.raw, cluster.then = raw, "silent"
    assert failure(cluster.url) == "the dashboard does not answer within 0.2 s"


def test_a_closed_port_and_an_unknown_name_are_told_apart() -> None:
    assert failure(f"http://127.0.0.1:{free_port()}") == "the dashboard cannot be reached: connection refused"
    assert failure("http://head.invalid:8265").startswith("the dashboard cannot be reached: ")


def test_the_token_is_sent_as_bearer_and_to_nobody_else(own: RayCluster, tmp_path: Path) -> None:
    own.add(ENGINE)
    file = tmp_path / "token"
    file.write_text("tok-en\n")
    assert look(own.url, token=Secret(f"file:{file}")).offered
    assert b"authorization: bearer tok-en" in own.heads[-1].lower()
    look(own.url)
    assert b"authorization" not in own.heads[-1].lower()


def test_the_token_never_stands_in_an_error(cluster: RayCluster, tmp_path: Path) -> None:
    cluster.raw = answer(b"you sent Bearer tok-en", "500 No")
    said = failure(cluster.url, token=Secret("tok-en"))
    assert said == "the dashboard answers 500: you sent Bearer ***"
    cluster.raw = answer(b"", "401 Unauthorized")
    assert "it needs another token" in failure(cluster.url, token=Secret("tok-en"))
    assert "is not readable" in failure(cluster.url, token=Secret(f"file:{tmp_path}/none"))
    assert "tok\ten" not in failure(cluster.url, token=Secret("tok\ten"))


def test_one_model_that_waits_for_a_gpu_keeps_no_replica_of_others(own: RayCluster) -> None:
    async def run() -> None:
        async with source_of(own.url) as source:
            own.add(ENGINE)
            own.status["sage-engines.large"] = "DEPLOYING"
            assert (await source.look()).settled
            replica = own.add("http://127.0.0.1:9002", "sage-engines.large")
            assert (await source.look()).settled
            own.remove(replica)  # it runs no more, or Ray has just not found it again
            listing = await source.look()
            assert not listing.settled
            assert listing.skipped == ("application sage-engines.large is DEPLOYING",)

    asyncio.run(run())


def list_many(cluster: RayCluster, count: int) -> None:
    """So many replicas, all of which answer at one port."""
    replica = cluster.add(ENGINE)
    cluster.places[replica] |= {"replica": None}
    document = cluster.document()
    listed = document["applications"]["sage-engines"]["deployments"]["Engine"]["replicas"]
    targets = document["target_groups"][0]["targets"]
    names = [f"SERVE_REPLICA::sage-engines#Engine#x{n}" for n in range(count)]
    listed[:] = [listed[0] | {"replica_id": each[-8:], "actor_name": each} for each in names]
    targets[:] = [targets[0] | {"name": each} for each in names]
    cluster.raw = answer(json.dumps(document).encode())


async def longest_pause(work: Coroutine[Any, Any, Any]) -> float:
    """CPU seconds of all threads between two turns of the loop: the decoder keeps the interpreter from all of them."""
    longest = 0.0
    working = asyncio.create_task(work)
    while not working.done():
        before = time.process_time()
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - before)
    await working
    return longest


def test_ten_thousand_replicas_are_too_many_and_never_block_the_loop(own: RayCluster) -> None:
    async def run() -> None:
        async with source_of(own.url) as source:
            with pytest.raises(
                SourceError, match=f"10,000 replicas run; a gateway takes {MOST_ENGINES} of a source"
            ):
                await source.look()

    list_many(own, 10_000)
    assert asyncio.run(longest_pause(run())) < 0.05
    assert own.asked == []


def test_a_look_ends_before_it_has_asked_all_replicas_and_the_next_one_goes_on(
    own: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sixteen at a time, each for 20 ms: a look cannot ask half of them, on no machine.
    monkeypatch.setattr(ray_source, "_PLACES_S", 0.15)
    own.answer_s = 0.02
    listings: list[Listing] = []

    async def run() -> None:
        async with source_of(own.url) as source:
            while not listings or listings[-1].skipped:
                listings.append(await source.look())

    list_many(own, MOST_ENGINES)
    assert asyncio.run(longest_pause(run())) < 0.05
    assert len(listings) > 1
    asked = len(listings[0].offered)
    assert 0 < asked < MOST_ENGINES
    assert listings[0].skipped[-1].endswith(" was not asked yet where its engine listens")
    assert len(listings[-1].offered) == MOST_ENGINES
    # Those that were being asked when a look ended are asked again.
    assert len(own.asked) <= MOST_ENGINES + ray_places._AT_ONCE * (len(listings) - 1)
