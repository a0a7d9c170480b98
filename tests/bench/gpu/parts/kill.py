"""Engines that end under streams: the core alone is killed, with and without a replica; SIGTERM, with and without time to finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tests.bench.gpu.asking import crowd
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown
from tests.bench.gpu.run import OutOfTime, Row, Run
from tests.bench.gpu.specs import SMALL_MODEL

BOTH = ("s", "t")  # t has a --shutdown-timeout
_STEP_S = 20.0
_GONE_S = 40.0
_CORE_GONE_S = 8.0  # some versions of vLLM serve on without one, and answer with errors


def play(run: Run, options: Options) -> None:
    """Each engine that ended starts again while the next step uses the other one."""
    restart_s = options.number("restart")
    tokens = options.count("tokens")
    steps: list[tuple[str, tuple[str, ...], str, Callable[[str], object]]] = [
        ("core_with_replica", BOTH, "s", run.engines.kill_core),
        ("core_alone", ("t",), "t", run.engines.kill_core),
        ("sigterm_no_time", BOTH, "s", run.engines.terminate),
        ("sigterm_30_s", BOTH, "t", run.engines.terminate),
    ]
    for name, engines, victim, act in steps:
        key = f"kill/{name}"
        if not run.due(key) or name not in options.words("acts"):
            continue
        if run.left_s() < _STEP_S + restart_s / 2:
            raise OutOfTime(key)
        run.engines.wait(engines, restart_s)
        run.require(engines)
        run.step(key, _STEP_S, partial(_measure, run, key, engines, victim, act, tokens))
        run.engines.launch(victim)
    run.engines.wait(BOTH, min(restart_s, run.left_s()))


def _measure(
    run: Run, key: str, engines: Sequence[str], victim: str, act: Callable[[str], object], tokens: int
) -> Row:
    with run.door(key, engines) as door:
        seen = crowd(
            door.url, SMALL_MODEL, first=8 * len(engines), tokens=tokens, later=20, act=lambda: act(victim)
        )
        states = {one["name"]: (one["state"], one["last_error"]) for one in door.gateway.instances()}
        with door.gateway.client() as http:
            ended = [line for line in http.get("/metrics").text.splitlines() if _counts(line)]
        gone_s = run.engines.wait_gone(victim, _CORE_GONE_S if "core" in key else _GONE_S)
    return {
        "victim": victim,
        "replicas": len(engines) - 1,
        "gone_s": round(gone_s, 1),
        **seen.figures(tokens),
        "states": states,
        "ended": ended,
    }


def _counts(line: str) -> bool:
    return line.startswith(
        ("sage_requests_total", "sage_request_retries", "sage_requests_cut")
    ) and not line.endswith(" 0")


def table(rows: Sequence[Row]) -> list[str]:
    names = (
        "first",
        "first_done",
        "first_error_event",
        "first_error_and_done",
        "first_silently_cut",
        "first_short_but_done",
        "finish_reasons",
        "later",
        "later_served",
        "later_worst_ttft_ms",
        "gone_s",
    )
    lines = [
        [row["key"].partition("/")[2], *(row.get(name) for name in names)]
        for row in rows
        if "error" not in row
    ]
    head = (
        "act",
        "streams under way",
        "done",
        "error event",
        "of these with [DONE]",
        "cut silently",
        "short but done",
        "finish reasons",
        "later",
        "served",
        "worst TTFT ms",
        "engine gone after s",
    )
    return [*markdown(head, lines), *failed(rows)]


PART = Part(
    "kill",
    "the core of an engine is killed with and without a replica; SIGTERM with and without --shutdown-timeout",
    play,
    table,
    needs=(),  # one of them is down again and again
    cap_s=240,
    stops=False,
    defaults={
        "restart": "90",
        "tokens": "4000",
        "acts": "core_with_replica+core_alone+sigterm_no_time+sigterm_30_s",
    },
)
