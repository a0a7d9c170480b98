"""Structured output end to end: a schema and a tool call, by a small model with random weights, and by a real one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.gpu.asking import ask, chat
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown
from tests.bench.gpu.run import Door, Row, Run
from tests.bench.gpu.specs import REAL_MODEL, SMALL_MODEL

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
_STEP_S = 20.0
_TIMES = 3


def play(run: Run, options: Options) -> None:
    """A model with random weights writes what the grammar forces on it. A real one shows that it is of use too."""
    for engine, model in (("s", SMALL_MODEL), ("m", REAL_MODEL)):
        for ask_for, measure in (("schema", _schema), ("tool", _tool)):
            key = f"structured/{engine}/{ask_for}"
            if engine in run.engines.live and run.engines.healthy(engine):
                run.step(key, _STEP_S, partial(_measure, run, engine, model, measure))


def _measure(run: Run, engine: str, model: str, measure: Any) -> Row:
    with run.door(f"structured-{engine}", (engine,)) as door:
        texts = [measure(door, model, number) for number in range(_TIMES)]
    return {"model": model, "valid": sum(map(_valid, texts)), "of": _TIMES, "texts": texts}


def _schema(door: Door, model: str, seed: int) -> str:
    wanted = {"type": "json_schema", "json_schema": {"name": "m", "schema": SCHEMA, "strict": True}}
    return str(_message(door, chat(model, 80, seed=seed, response_format=wanted))["content"])


def _tool(door: Door, model: str, seed: int) -> str:
    tools = [{"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}]
    choice = {"type": "function", "function": {"name": "pick"}}
    message = _message(door, chat(model, 80, seed=seed, tools=tools, tool_choice=choice))
    if not message.get("tool_calls"):
        raise BenchError(f"no tool call: {json.dumps(message)[:500]}")
    return str(message["tool_calls"][0]["function"]["arguments"])


def _message(door: Door, body: dict[str, Any]) -> dict[str, Any]:
    """The message of the answer. Raises ``BenchError`` with what came instead."""
    answer = ask(door.url, "/v1/chat/completions", body, 60)
    if answer.status_code != 200:
        raise BenchError(f"answered {answer.status_code}: {answer.text[:500]}")
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return message


def _valid(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(found, dict)
        and set(found) == {"mood", "sure"}
        and found["mood"] in ("good", "bad")
        and isinstance(found["sure"], bool)
    )


def table(rows: Sequence[Row]) -> list[str]:
    lines = [
        [row["key"].partition("/")[2], row["model"], f"{row['valid']} of {row['of']}", row["texts"][0][:60]]
        for row in rows
        if "error" not in row
    ]
    real = (
        []
        if any("/m/" in row["key"] for row in rows)
        else ["", "With a real model: not run (none was given)."]
    )
    return [*markdown(("asked for", "model", "valid", "first text"), lines), *failed(rows), *real]


PART = Part(
    "structured",
    "a JSON schema and a forced tool call through the gateway",
    play,
    table,
    needs=(),
    cap_s=60,
)
