"""An engine that hangs is told from one that is only busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import pytest

from sage_inference.engines.managed.activity import Activity, ActivityMeter
from sage_inference.engines.managed.hang import IDLE_S, HangWatch, Silence

STALL_S = 600.0
Look = Callable[[float], tuple[Silence, Activity]]


def hangs_after(look: Look, *, stall_s: float = STALL_S, until: float = 5000.0) -> tuple[float, str] | None:
    """Seconds until the engine counts as hanging, and the sentence."""
    watch = HangWatch(0.0)
    for now in range(5, int(until), 5):
        sentence = watch.hangs(*look(now), stall_s, now)
        if sentence is not None:
            return now, sentence
    return None


def silence(**more: object) -> Silence:
    return Silence(error="did not answer /health within 2 s", **more)  # type: ignore[arg-type]


CASES: dict[str, tuple[Look, float | None, str]] = {
    "does nothing": (lambda _: (silence(), Activity.IDLE), IDLE_S, "and its processes did nothing"),
    "does nothing, and requests wait": (lambda _: (silence(allowed_s=3600), Activity.IDLE), IDLE_S, ""),
    "works": (lambda _: (silence(), Activity.WORKS), STALL_S, "while its processes worked"),
    "works on long prompts": (lambda _: (silence(allowed_s=3600), Activity.WORKS), 3600, ""),
    "suspended": (lambda _: (silence(allowed_s=3600), Activity.SUSPENDED), STALL_S, "suspended (SIGSTOP)"),
    "asleep": (lambda _: (silence(asleep=True), Activity.IDLE), STALL_S, ""),
    "debugged": (lambda _: (silence(), Activity.DEBUGGED), None, ""),
    "works now and then": (
        lambda at: (silence(), Activity.WORKS if at % 50 == 0 else Activity.IDLE),
        STALL_S,
        "",
    ),
    "loads an adapter, and then does nothing": (
        lambda at: (silence(), Activity.WORKS if at < 300 else Activity.IDLE),
        295 + IDLE_S,
        "answered nothing for 355 s",
    ),
    "sends tokens": (lambda at: (silence(sent=frozenset({(1, at)})), Activity.IDLE), None, ""),
    "sends tokens of one stream of two": (
        lambda at: (silence(sent=frozenset({(1, at), (2, 0.0)})), Activity.IDLE),
        None,
        "",
    ),
    "has sent its last token": (
        lambda at: (silence(sent=frozenset({(1, min(at, 100.0))})), Activity.IDLE),
        100 + IDLE_S,
        "answered nothing for 60 s",
    ),
    "loses the callers of its streams": (
        lambda at: (silence(sent=frozenset((n, 0.0) for n in range(1, 100 - int(at)))), Activity.IDLE),
        5 + IDLE_S,
        "",
    ),
}


@pytest.mark.parametrize(("look", "seconds", "says"), CASES.values(), ids=CASES)
def test_how_long_an_engine_may_be_silent(look: Look, seconds: float | None, says: str) -> None:
    found = hangs_after(look)
    assert (None if found is None else found[0]) == seconds
    if found is not None:
        assert found[1].startswith("it answered nothing for ")
        assert "no health check (did not answer /health within 2 s)" in found[1]
        assert says in found[1]


def test_a_short_stall_s_does_not_end_an_engine_that_is_busy_for_a_moment() -> None:
    found = hangs_after(lambda _: (silence(), Activity.WORKS), stall_s=1.0)
    assert found is not None
    assert found[0] == IDLE_S


def test_an_answer_begins_the_silence_anew() -> None:
    watch = HangWatch(0.0)
    for now in range(5, 2000, 5):
        if now % 55 == 0:
            watch.alive(now)
        assert watch.hangs(silence(), Activity.IDLE, STALL_S, now) is None


@pytest.fixture
def process() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        found = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
        started.append(found)
        assert found.stdout is not None
        found.stdout.readline()
        return found

    yield start
    for each in started:
        for child in psutil.Process(each.pid).children(recursive=True):
            child.kill()
        each.kill()
        each.wait(10)


# It ends with the test, and by itself where that was killed.
SPIN = "import time\nprint(flush=True)\nend = time.monotonic() + 15\nwhile time.monotonic() < end: pass"
SLEEP = "import time\nprint(flush=True)\ntime.sleep(100)"
OF_A_CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', %r])"


@pytest.mark.parametrize(
    ("code", "signals", "expected"),
    [
        (SPIN, (), Activity.WORKS),
        (OF_A_CHILD % SPIN, (), Activity.WORKS),
        (SLEEP, (), Activity.IDLE),
        (SLEEP, (signal.SIGSTOP,), Activity.SUSPENDED),
        (SPIN, (signal.SIGSTOP,), Activity.SUSPENDED),
        (SLEEP, (signal.SIGSTOP, signal.SIGCONT), Activity.IDLE),
    ],
)
def test_the_activity_of_processes_is_seen(
    process: Callable[[str], subprocess.Popen[bytes]],
    code: str,
    signals: Sequence[signal.Signals],
    expected: Activity,
) -> None:
    pid = process(code).pid
    for each in signals:
        os.kill(pid, each)
    meter = ActivityMeter(pid)
    meter.look()
    deadline = time.monotonic() + 10
    while (found := meter.look()) is not expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found is expected


def test_an_engine_whose_processes_are_not_seen_may_work() -> None:
    meter = ActivityMeter(None)
    assert [meter.look(), meter.look()] == [Activity.WORKS] * 2
