"""Chats and bulk embeddings on one GPU: under each rule of sharing, and with no gateway at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown, ratio
from tests.bench.gpu.parts.embeddings import Callers
from tests.bench.gpu.run import Row, Run, total_of
from tests.bench.gpu.specs import CHAT_MODEL
from tests.bench.gpu.windows import window

ENGINES = ("a", "e")
SLO = "ttft=1000,tpot=50"
BULK = Callers(4, 32, 500, 1.0)
_AROUND_S = 8.0


@dataclass(frozen=True, slots=True)
class Way:
    """``gpu``: the gateway knows that both engines share one. ``embeds``: bulk runs beside the chats."""

    scheduling: dict[str, Any]
    gpu: bool = True
    embeds: bool = True
    gateway: bool = True


WAYS = {
    "chat": Way({}, embeds=False),
    "free": Way({"embedding_priority": "normal"}, gpu=False),
    "ratio": Way({"hybrid_instance_ratio": 0.7}),
    "adaptive": Way({"embedding_priority": "adaptive"}),
    "uncontrolled": Way({}, gateway=False),
}


def play(run: Run, options: Options) -> None:
    """``loads`` are ``SPEED/WAY`` in the order of their worth, so that a short run has the best of them."""
    seconds = options.number("window")
    for word in options.words("loads"):
        speed, _, way = word.partition("/")
        key = f"mixed/{word}"
        run.step(
            key,
            seconds + _AROUND_S,
            partial(_measure, run, key, float(speed), way, seconds, options.words("trace")[0]),
        )


def _measure(run: Run, key: str, speed: float, name: str, seconds: float, trace: str) -> Row:
    way = WAYS[name]
    file = window(run.traces, trace, speed, seconds, run.results / "windows")
    run.engines.settle(("a",))
    chat = {"model": CHAT_MODEL, "trace": file, "speedup": speed, "ignore_eos": True, "slo": SLO}
    chat |= {
        "seed": round(10 * speed) * 10 + list(WAYS).index(name)
    }  # other words, in case the cache was not emptied
    row: Row = {"trace": trace, "speed": speed, "way": name, "slo": SLO}
    if not way.gateway:
        return row | _both(run, key, run.engines.url("a"), run.engines.url("e"), chat, seconds, True)
    with run.door(key, ENGINES, way.scheduling, gpu=way.gpu) as door:
        row |= _both(run, key, door.url, door.url, chat, seconds, way.embeds)
        return row | {"gateway_cpu_s": door.cpu_s(), "record": door.record.name}


def _both(
    run: Run, key: str, chats: str, embeddings: str, chat: dict[str, object], seconds: float, embeds: bool
) -> Row:
    if not embeds:
        return total_of(run.load(key, chats, chat, seconds + 20).result())
    bulk = run.load(f"{key}-bulk", embeddings, BULK.options(seconds, 1), seconds + 30)
    try:
        row = total_of(run.load(key, chats, chat, seconds + 20).result())
        beside = total_of(bulk.result())
    finally:
        bulk.kill()
    return row | {
        "embedding_tokens_per_s": beside["prompt_per_s"],
        "embedding_texts_per_s": beside["requests_per_s"] * BULK.texts,
        "embedding_failed": beside["failed"] + beside["abandoned"],
    }


def table(rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if "error" not in row]
    free = {row["speed"]: row.get("embedding_tokens_per_s") for row in good if row["way"] == "free"}
    lines = [
        [
            f"{row['trace']} x {row['speed']:g}",
            row["way"],
            row["sent"],
            f"{row['ttft_p50_ms'] or 0:.0f} / {row['ttft_p99_ms'] or 0:.0f}",
            f"{row['tpot_p50_ms'] or 0:.1f} / {row['tpot_p99_ms'] or 0:.1f}",
            f"{100 * (row['good_share'] or 0):.1f}",
            row.get("embedding_tokens_per_s"),
            ratio(row.get("embedding_tokens_per_s"), free.get(row["speed"])),
        ]
        for row in good
    ]
    head = (
        "load",
        "way",
        "chats",
        "TTFT p50/p99 ms",
        "TPOT p50/p99 ms",
        "goodput %",
        "embedding tokens/s",
        "of free",
    )
    return [*markdown(head, lines), *failed(rows)]


PART = Part(
    "mixed",
    "chats with bulk embeddings on the same GPU: alone, free, ratio, adaptive, and straight at the engines",
    play,
    table,
    needs=ENGINES,
    cap_s=360,
    defaults={
        "window": "25",
        "trace": "azure",
        "loads": "2.5/free+2.5/ratio+2.5/adaptive+4.4/uncontrolled+4.4/adaptive+4.4/chat+4.4/free+4.4/ratio+2.5/chat",
    },
)
