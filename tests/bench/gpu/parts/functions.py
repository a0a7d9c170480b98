"""Whether each function works before real engines: one row a check, with what was seen."""

from __future__ import annotations

import array
import asyncio
import base64
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.bench.gpu.asking import Answer, ask, chat, client, stream
from tests.bench.gpu.options import Options
from tests.bench.gpu.parts.base import Part, failed, markdown
from tests.bench.gpu.run import Door, Row, Run
from tests.bench.gpu.specs import CHAT_MODEL, EMBEDDING_MODEL, MAX_TEXT_TOKENS, RERANKER_MODEL, SPECS, Role

_PATIENCE_S = 8.0
_STEP_S = 4.0
Check = Callable[[Run, Door, Sequence[str]], tuple[bool, Any]]


def play(run: Run, options: Options) -> None:
    have = [name for name in SPECS if name in run.engines.live and run.engines.healthy(name)]
    with run.door("functions", have, aliases={"gpt-4o": CHAT_MODEL}) as door:
        for name, check in CHECKS.items():
            if name == "reranker" and "r" not in have:
                continue
            run.step(f"functions/{name}", _STEP_S, partial(_checked, check, run, door, have))


def _checked(check: Check, run: Run, door: Door, have: Sequence[str]) -> Row:
    ok, seen = check(run, door, have)
    return {"ok": bool(ok), "seen": json.dumps(seen, default=str)[:900]}


def _detection(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    found = {one["name"]: one for one in door.gateway.instances()}
    kinds = {name: (found[name]["kind"], found[name]["engine"], found[name]["state"]) for name in have}
    wanted = {Role.CHAT: "llm", Role.EMBEDDING: "embedding", Role.RERANKER: "reranker"}
    good = all(kinds[name] == (wanted[SPECS[name].role], "vllm", "ready") for name in have)
    return good, {"kinds": kinds, "models": {name: found[name]["models"] for name in have}}


def _models(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    listed = [one["id"] for one in ask(door.url, "/v1/models").json()["data"]]
    one = ask(door.url, f"/v1/models/{CHAT_MODEL}").status_code
    return CHAT_MODEL in listed and one == 200, {"listed": listed, "one": one}


def _chat(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    body = chat(CHAT_MODEL, 12, seed=7, temperature=0)
    answers = [ask(url, "/v1/chat/completions", body) for url in (run.engines.url("a"), door.url, door.url)]
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    alias = ask(door.url, "/v1/chat/completions", chat("gpt-4o", 4))
    good = len(set(texts)) == 1 and alias.status_code == 200
    return good, {"texts": texts, "alias": alias.status_code, "usage": answers[1].json().get("usage")}


def _stream(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    answer = _one(door.url, chat(CHAT_MODEL, 64, ignore_eos=True))
    seen = {"chunks": answer.chunks, "done": answer.done, "tokens": answer.tokens, "finish": answer.finish}
    return answer.done and answer.tokens == 64 and answer.finish == "length", seen


def _one(url: str, body: dict[str, Any], leave_after: int | None = None) -> Answer:
    async def play() -> Answer:
        async with client() as http:
            return await stream(http, url, body, leave_after=leave_after)

    return asyncio.run(play())


def _other_routes(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    many = {"model": CHAT_MODEL, "prompt": " river road", "max_tokens": 4, "n": 2, "logprobs": 2}
    tokens = ask(door.url, "/tokenize", {"model": CHAT_MODEL, "prompt": " river road"})
    asked = {
        "/v1/completions": many,
        "/detokenize": {"model": CHAT_MODEL, "tokens": tokens.json().get("tokens")},
        "/v1/responses": {"model": CHAT_MODEL, "input": "hello", "max_output_tokens": 8},
        "/v1/messages": {
            "model": CHAT_MODEL,
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 8,
        },
    }
    seen = {path: ask(door.url, path, body).status_code for path, body in asked.items()}
    seen["/tokenize"] = tokens.status_code
    return all(status == 200 for status in seen.values()), seen


def _embeddings(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    texts = ["a river", "a lake", "the road to the farm " * 30]
    body: dict[str, Any] = {"model": EMBEDDING_MODEL, "input": texts}
    ours = _vectors(ask(door.url, "/v1/embeddings", body).json())
    engine = _vectors(ask(run.engines.url("e"), "/v1/embeddings", body).json())
    packed = _vectors(ask(door.url, "/v1/embeddings", body | {"encoding_format": "base64"}).json())
    many = ask(door.url, "/v1/embeddings", body | {"input": ["x"] * 500})
    ids = ask(door.url, "/v1/embeddings", body | {"input": [[5, 6, 7], [8, 9]]}).status_code
    seen = {
        "over_direct": _farthest(ours, engine),
        "base64": _farthest(ours, packed),
        "of_500": len(many.json().get("data", ())),
        "token_ids": ids,
    }
    return seen["over_direct"] < 1e-3 and seen["base64"] < 1e-3 and seen["of_500"] == 500 and ids == 200, seen


def _vectors(document: dict[str, Any]) -> list[list[float]]:
    found = []
    for one in document["data"]:
        vector = one["embedding"]
        found.append(
            list(array.array("f", base64.b64decode(vector))) if isinstance(vector, str) else list(vector)
        )
    return found


def _farthest(ones: list[list[float]], others: list[list[float]]) -> float:
    pairs = zip(ones, others, strict=True)
    return max(abs(x - y) for one, other in pairs for x, y in zip(one, other, strict=True))


def _merged(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    """96 callers at a time, and each of their texts alone."""

    async def play() -> list[tuple[list[float], list[float]]]:
        async with client() as http:

            async def vector(url: str, number: int) -> list[float]:
                body = {"model": EMBEDDING_MODEL, "input": f"road number {number}"}
                return _vectors((await http.post(f"{url}/v1/embeddings", json=body)).json())[0]

            together = await asyncio.gather(*(vector(door.url, number) for number in range(96)))
            return [(together[n], await vector(run.engines.url("e"), n)) for n in range(0, 96, 8)]

    pairs = asyncio.run(play())
    farthest = max(abs(x - y) for one, other in pairs for x, y in zip(one, other, strict=True))
    return farthest < 2e-3, {"farthest": farthest, "embeddings": door.gateway.status().get("embeddings")}


def _reranker(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    query = {"model": RERANKER_MODEL, "query": "a river", "documents": ["a lake", "a shoe", "the river road"]}
    pair = {"model": RERANKER_MODEL, "text_1": "a river", "text_2": ["a lake", "a shoe"]}
    seen = {
        "/rerank": ask(door.url, "/rerank", query).status_code,
        "/v1/score": ask(door.url, "/v1/score", pair).status_code,
        "embeddings_of_it": ask(
            door.url, "/v1/embeddings", {"model": RERANKER_MODEL, "input": "x"}
        ).status_code,
    }
    return seen == {"/rerank": 200, "/v1/score": 200, "embeddings_of_it": 404}, seen


def _errors(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    bad = chat(CHAT_MODEL, 4, temperature=-3)
    long = {"model": EMBEDDING_MODEL, "input": ["ok", "river " * (MAX_TEXT_TOKENS + 800)]}
    ours, direct = (ask(url, "/v1/chat/completions", bad) for url in (door.url, run.engines.url("a")))
    seen = {
        "unknown_model": ask(door.url, "/v1/chat/completions", chat("nope", 4)).status_code,
        "bad_field": ours.status_code,
        "too_long_text": ask(door.url, "/v1/embeddings", long).status_code,
    }
    return seen == {"unknown_model": 404, "bad_field": 400, "too_long_text": 400}, {
        **seen,
        "passed_on_unchanged": ours.text == direct.text,
    }


def _leaving(run: Run, door: Door, have: Sequence[str]) -> tuple[bool, Any]:
    """Seconds until an engine has nothing left to do after its caller left."""
    seen = {}
    for name, url in (("direct", run.engines.url("a")), ("gateway", door.url)):
        _one(url, chat(CHAT_MODEL, 6000, ignore_eos=True), leave_after=5)
        seen[name] = _idle_after(run, have)
    return all(value is not None for value in seen.values()), seen


def _idle_after(run: Run, have: Sequence[str]) -> float | None:
    began = time.monotonic()
    chats = [name for name in have if SPECS[name].role is Role.CHAT]
    while time.monotonic() - began < _PATIENCE_S:
        if not sum(run.engines.metrics(name).get("vllm:num_requests_running", 0.0) for name in chats):
            return round(time.monotonic() - began, 3)
        time.sleep(0.02)
    return None


CHECKS: dict[str, Check] = {
    "detection": _detection,
    "models": _models,
    "chat": _chat,
    "stream": _stream,
    "other_routes": _other_routes,
    "embeddings": _embeddings,
    "merged": _merged,
    "reranker": _reranker,
    "errors": _errors,
    "leaving": _leaving,
}


def table(rows: Sequence[Row]) -> list[str]:
    lines = [[row["key"].partition("/")[2], row["ok"], row["seen"]] for row in rows if "ok" in row]
    return [*markdown(("check", "ok", "seen"), lines), *failed(rows)]


PART = Part(
    "functions",
    "every function once, before every engine that is up",
    play,
    table,
    needs=("a", "e"),
    cap_s=90,
)
