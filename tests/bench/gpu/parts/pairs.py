"""Prompts on one engine, answers on another: the same answers, their times beside two whole engines, and a kill of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from tests.bench.gpu.asking import chat, client, crowd, stream
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, in_turns, markdown
from tests.bench.gpu.run import OutOfTime, Row, Run, total_of
from tests.bench.gpu.specs import CHAT_MODEL

BOTH = ("p", "d")
KINDS = {
    "split": {"p": "prefilling", "d": "decoding"},
    "whole": {"p": "llm", "d": "llm"},
}
_WORDS = (40, 400, 4000)  # of the prompts whose answers are compared
_AROUND_S = 9.0
_KILL_S = 15.0
_TRANSFERS = ("nixl", "external_prefix_cache")


def play(run: Run, options: Options) -> None:
    run.step("pairs/answers", 20, partial(_answers, run, options.count("answers")))
    seconds = options.number("window")
    for number in range(options.count("rounds")):
        for way in in_turns(tuple(KINDS), number):
            key = f"pairs/load/{number}/{way}"
            run.step(key, seconds + _AROUND_S, partial(_load, run, key, way, number, seconds, options))
    for victim in options.words("kill"):
        key = f"pairs/kill/{victim}"
        if run.due(key):
            if run.left_s() < _KILL_S:
                raise OutOfTime(key)
            run.engines.wait(BOTH, min(options.number("restart"), run.left_s()))
            run.require(BOTH)
            run.step(key, _KILL_S, partial(_kill, run, key, victim))
            run.engines.launch(victim)


def _answers(run: Run, each: int) -> Row:
    """Greedy answers of a split request and of the decoding engine alone."""
    bodies = [
        chat(CHAT_MODEL, 24, words=words, seed=100 * words + number, temperature=0, ignore_eos=True)
        for words in _WORDS
        for number in range(each)
    ]

    async def ask(url: str) -> list[str]:
        async with client(60) as http:
            answers = [await stream(http, url, body) for body in bodies]
        bad = [f"{one.status} {one.error[:200]}" for one in answers if one.error or not one.done]
        return bad or ["".join(one.text) for one in answers]

    before = run.engines.metrics("d")
    with run.door("pairs/answers", BOTH, kinds=KINDS["split"]) as door:
        split = asyncio.run(ask(door.url))
    after = run.engines.metrics("d")
    run.engines.settle(BOTH)
    whole = asyncio.run(ask(run.engines.url("d")))
    moved = {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if any(word in name for word in _TRANSFERS)
    }
    equal = sum(one == other for one, other in zip(split, whole, strict=False))
    return {
        "ok": equal == len(bodies),
        "answers": len(bodies),
        "equal": equal,
        "moved": moved,
        "seen": str(split[:1])[:200],
    }


def _load(run: Run, key: str, way: str, number: int, seconds: float, options: Options) -> Row:
    run.engines.settle(BOTH)
    load = {
        "model": CHAT_MODEL,
        "concurrency": options.count("streams"),
        "input_tokens": options.count("input"),
        "output_tokens": 128,
        "ignore_eos": True,
        "duration": seconds,
        "warmup": 2,
        "seed": 9000 + 10 * number + list(KINDS).index(way),
    }
    with run.door(key, BOTH, kinds=KINDS[way]) as door:
        row = total_of(run.load(key, door.url, load, seconds + 40).result())
        return {"way": way, "round": number, **row, "record": door.record.name}


def _kill(run: Run, key: str, victim: str) -> Row:
    with run.door(key, BOTH, kinds=KINDS["split"]) as door:
        seen = crowd(
            door.url, CHAT_MODEL, first=16, tokens=200, later=20, act=lambda: run.engines.kill(victim)
        )
        states = {one["name"]: (one["state"], one["last_error"]) for one in door.gateway.instances()}
        return {"victim": victim, **seen.figures(200), "states": states}


def table(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row["key"] == "pairs/answers" and "error" not in row:
            lines += [
                f"{row['equal']} of {row['answers']} answers equal to those of one engine; transfers: {row['moved']}",
                "",
            ]
    loads = [row for row in rows if row["key"].startswith("pairs/load") and "error" not in row]
    names = ("ok", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "output_per_s")
    head = ("way", "round", "answered", "TTFT p50 ms", "p99", "TPOT p50 ms", "p99", "output/s")
    lines += markdown(head, [[row["way"], row["round"], *(row.get(name) for name in names)] for row in loads])
    kills = [row for row in rows if row["key"].startswith("pairs/kill") and "error" not in row]
    counts = (
        "first",
        "first_done",
        "first_error_event",
        "first_silently_cut",
        "later",
        "later_served",
        "later_errors",
    )
    head = ("killed", "streams", "done", "ended by an error", "silently cut", "later", "served", "errors")
    lines += ["", *markdown(head, [[row["victim"], *(row.get(name) for name in counts)] for row in kills])]
    return [*lines, *failed(rows)]


PART = Part(
    "pairs",
    "prompts on one engine and answers on another, by NixlConnector",
    play,
    table,
    needs=BOTH,
    stops=False,
    defaults={
        "answers": "4",
        "rounds": "2",
        "window": "10",
        "streams": "16",
        "input": "4000",
        "kill": "p+d",
        "restart": "90",
    },
)
