"""Names that callers make up: whatever they send, metrics and memory stay as they are."""

from __future__ import annotations

import json
import urllib.request
from itertools import count
from pathlib import Path

from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, post

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
ANSWER = ok(json.dumps({"choices": [MESSAGE], "usage": USAGE}))


def ask(caller: Caller, number: int) -> None:
    """Four requests with names that nobody sent before: a user, a model, a path, and headers."""
    messages = [{"role": "user", "content": "hi"}]
    served = json.dumps({"model": "m", "messages": messages, "user": f"user-{number}"}).encode()
    unknown = json.dumps({"model": f"model-{number}", "messages": messages}).encode()
    caller.send(
        post(CHAT, served, f"x-request-id: id-{number}", f"x-name-{number}: value")
        + post(CHAT, unknown)
        + post(f"/v1/path-{number}", b"{}")
        + post(f"/v1/responses/{number}/cancel", b"")
    )
    assert [caller.reply().status for _ in range(4)] == [200, 404, 404, 404]


def series(door: InProcess) -> list[str]:
    """The names and labels of all samples on the page of metrics."""
    with urllib.request.urlopen(f"{door.url}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    return [line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")]


def test_metrics_have_no_series_of_made_up_names(tmp_path: Path) -> None:
    usage_file = tmp_path / "usage.db"
    with (
        RogueEngine(ANSWER) as engine,
        gateway(engine, usage_file=usage_file) as door,
        Caller(door.port) as caller,
    ):
        numbers = count()
        for _ in range(20):
            ask(caller, next(numbers))
        before = series(door)
        for _ in range(1500):  # more than the users whose counts are kept until they are written
            ask(caller, next(numbers))
        after = series(door)
        assert after == before
        assert not any(word in " ".join(after) for word in ("user-", "model-1", "path-", "id-1"))
        assert door.ask(lambda r: len(r.gateway.stats.tally.take_users())) <= 1025
