"""A source with very many engines: the event loop goes on, and nothing grows."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_inference.discovery.vetting import MOST_ENGINES
from sage_inference.gateway.metrics.instances import MOST_INSTANCES
from sage_inference.gateway.metrics.page import exposition
from tests.gateway.test_sources import Place, chat, document, has, sourced
from tests.support.gateway import free_port
from tests.support.inprocess import InProcess

LONGEST_S = 0.05  # of CPU time in one turn of the event loop


@contextmanager
def turns(door: InProcess) -> Iterator[list[float]]:
    """The longest turn of the gateway's event loop within this context, in seconds of its thread's CPU time.

    Time of the clock would measure the other tests of this machine, too.
    """
    longest, over = [0.0], False

    async def measure() -> None:
        at = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest[0], at = max(longest[0], now - at), now
            await asyncio.sleep(0.001)
            at = time.thread_time()

    gc.collect()
    gc.freeze()  # the objects of all tests before would be looked through, too
    assert door._loop is not None
    future = asyncio.run_coroutine_threadsafe(measure(), door._loop)
    try:
        yield longest
    finally:
        over = True
        future.result(20)
        gc.unfreeze()


def entries(count: int, port: int) -> str:
    return "".join(f"- {{url: 'http://127.0.0.1:{port}/{n}', name: e{n}}}\n" for n in range(count))


def test_many_engines_come_and_go_without_a_stall(tmp_path: Path) -> None:
    place, port = Place(tmp_path / "engines.yaml"), free_port()
    place.name()
    with sourced(place.settings()) as door:
        with turns(door) as longest:
            place.write(entries(MOST_ENGINES, port))
            door.until(lambda running: len(running.gateway.engines) == MOST_ENGINES, 60)
        assert longest[0] < LONGEST_S
        assert document(door)["instances"] == MOST_ENGINES
        page = door.ask(lambda running: exposition(running.gateway))
        assert page.count("sage_instance_ready{") == MOST_INSTANCES
        refused = chat(door).json()["error"]["message"]
        assert refused.endswith(f" and {MOST_ENGINES - 10} more"), refused
        with turns(door) as longest:
            place.name()
            door.until(has(), 60)
        assert longest[0] < LONGEST_S


def test_a_list_of_ten_thousand_is_refused_as_a_whole(tmp_path: Path) -> None:
    place, port = Place(tmp_path / "engines.yaml"), free_port()
    place.write(entries(1, port))
    with sourced(place.settings()) as door, turns(door) as longest:
        place.write(entries(10_000, port))
        door.until(lambda running: running.sources.watches[0].state == "stale", 60)
        assert "has 10,000 entries, more than 256" in document(door)["last_error"]
        assert door.ask(has("e0"))
        assert longest[0] < LONGEST_S


def test_a_thousand_edits_a_minute_change_nothing_until_one_is_complete(tmp_path: Path) -> None:
    place, port = Place(tmp_path / "engines.yaml"), free_port()
    good = entries(3, port)
    place.write(good)
    with sourced(place.settings()) as door:
        names = ("e0", "e1", "e2")
        assert door.ask(has(*names))
        tasks = door.ask(lambda running: len(asyncio.all_tasks()))
        threads = threading.active_count()
        ends = time.monotonic() + 3
        while time.monotonic() < ends:  # in place: half lists, which are valid YAML
            for cut in (good.index("- ", 5), 7, 0, len(good) - 4):
                place.path.write_text(good[:cut])
                time.sleep(0.06)
            assert door.ask(has(*names))
            assert threading.active_count() <= threads + 1
        assert document(door)["last_error"] == "is being written"
        ends = time.monotonic() + 1
        while time.monotonic() < ends:  # renamed into place: each of them is complete
            place.write(entries(3 + int(time.monotonic() * 16) % 2, port))
            time.sleep(0.06)
        place.write(entries(5, port))
        door.until(has(*names, "e3", "e4"))
        # Two more watches of instances, and the tasks of this question.
        door.until(lambda running: len(asyncio.all_tasks()) <= tasks + 4)


def test_a_gateway_without_sources_loads_none_of_their_code() -> None:
    code = (
        "import sys, sage_inference.server;"
        "print([name for name in sys.modules if name.startswith(('sage_inference.discovery', 'dns', 'ray'))])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.strip() == "[]"
