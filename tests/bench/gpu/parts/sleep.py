"""An engine that sleeps beside one that is awake, and wakes again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.bench.gpu.asking import ask, chat
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown
from tests.bench.gpu.run import Door, Row, Run
from tests.bench.gpu.specs import SMALL_MODEL

BOTH = ("s", "t")
_STEP_S = 45.0
_PATIENCE_S = 25.0


def play(run: Run, options: Options) -> None:
    run.engines.wait(BOTH, options.number("restart"))
    run.step("sleep/with_replica", _STEP_S, lambda: _measure(run, BOTH))
    run.step("sleep/alone", _STEP_S, lambda: _measure(run, ("s",)))


def _measure(run: Run, engines: Sequence[str]) -> Row:
    url = run.engines.url("s")
    with run.door(f"sleep-{len(engines)}", engines) as door:
        slept = ask(url, "/sleep?level=1", {}, 60).status_code
        noticed_s = _until(door, "s", ready=False)
        answers = [_status(door, number) for number in range(6 if len(engines) > 1 else 1)]
        state = next(one["state"] for one in door.gateway.instances() if one["name"] == "s")
        woke = ask(url, "/wake_up", {}, 60).status_code
        ready_s = _until(door, "s", ready=True)
        after = _status(door, 99)
    return {
        "replicas": len(engines) - 1,
        "sleep": slept,
        "noticed_s": noticed_s,
        "state": state,
        "answers_asleep": [one[0] for one in answers],
        "worst_s": max(one[1] for one in answers),
        "wake_up": woke,
        "ready_s": ready_s,
        "answer_awake": after[0],
    }


def _status(door: Door, seed: int) -> tuple[object, float]:
    began = time.monotonic()
    try:
        status: object = ask(
            door.url, "/v1/chat/completions", chat(SMALL_MODEL, 4, seed=seed), 12
        ).status_code
    except Exception as error:
        status = type(error).__name__
    return status, round(time.monotonic() - began, 2)


def _until(door: Door, name: str, *, ready: bool) -> float | None:
    """Seconds until the gateway shows it so. None: not within the patience."""
    began = time.monotonic()
    while time.monotonic() - began < _PATIENCE_S:
        state = next(one["state"] for one in door.gateway.instances() if one["name"] == name)
        if (state == "ready") is ready:
            return round(time.monotonic() - began, 2)
        time.sleep(0.05)
    return None


def table(rows: Sequence[Row]) -> list[str]:
    names = ("replicas", "noticed_s", "state", "answers_asleep", "worst_s", "ready_s", "answer_awake")
    head = (
        "replicas",
        "noticed after s",
        "state",
        "answers while asleep",
        "slowest s",
        "ready after waking s",
        "then",
    )
    return [
        *markdown(head, [[row.get(name) for name in names] for row in rows if "error" not in row]),
        *failed(rows),
    ]


PART = Part(
    "sleep",
    "an engine goes to sleep and wakes, with and without a replica",
    play,
    table,
    needs=BOTH,
    cap_s=120,
    stops=False,
    defaults={"restart": "60"},
)
