"""Tables, the rows of status and of config show, in terminals of all widths."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_inference.cli import status, statusrows, table
from tests.support.command import sage


def instance(number: int, state: str = "ready", **more: Any) -> dict[str, Any]:
    return {
        "name": f"127.0.0.1:{8000 + number}",
        "kind": "llm",
        "engine": "vllm",
        "state": state,
        "simulated": False,
        "in_flight": number,
        "ttft_ms": 10.0 + number,
        "models": ["org/a-model-with-a-long-name-instruct", "an-alias"],
        "last_error": None if state == "ready" else "refused the connection",
        "queued": None,
        "url": f"http://127.0.0.1:{8000 + number}",
    } | more


def live(*instances: dict[str, Any]) -> Any:
    class State:
        live = {
            "state": "running",
            "address": "http://127.0.0.1:8000",
            "pid": 1,
            "uptime_s": 5.0,
            "requests": {"in_flight": 0, "queued": 0, "total": 0},
            "policy": "hybrid",
            "embeddings": {"calls": 0},
            "simulated": False,
            "instances": list(instances),
        }

    return State


def shown(monkeypatch: pytest.MonkeyPatch, state: Any, width: int | None) -> str:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(table, "width_of_terminal", lambda: width)
    status._show(state)
    return out.getvalue()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_rows_of_status_fit_the_terminal(width: int) -> None:
    rows = [row.cells for row in statusrows.rows([instance(1), instance(2, "ejected"), instance(3)])]
    text = re.sub(r"\x1b\[\d+m", "", table.render(statusrows.HEADERS, rows, width=width))
    assert max(map(len, text.split("\n"))) <= width
    joined = "".join(text.split())
    for number in (8001, 8002, 8003):
        assert f"127.0.0.1:{number}" in joined


@given(
    st.integers(10, 120),
    st.lists(st.lists(st.text("ab -:/", max_size=60), min_size=3, max_size=3), min_size=1, max_size=4),
)
@example(10, [["", "", ":"]])
@example(10, [["a b", "-", "ab:/ ab-ab"], ["a", "b" * 20, ""]])
def test_no_line_is_wider_and_nothing_is_lost(width: int, rows: list[list[str]]) -> None:
    text = table.render(("NAME", "STATE", "MODELS"), rows, width=width)
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.split("\n"))) <= width
    letters = sum(len(cell.replace(" ", "")) for row in rows for cell in row)
    if "NAME" not in plain:  # a list for each row, without the cells that hold no value
        letters -= sum(cell == "-" for row in rows for cell in row[1:])
    assert sum(plain.count(letter) for letter in "ab-:/") == letters


def test_many_instances_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [instance(n, "ejected" if n in (7, 9) else "ready") for n in range(40)]
    text = shown(monkeypatch, live(*many), 120)
    assert "engines: 38 of 40 ready, 2 ejected; 780 in flight" in text
    assert "127.0.0.1:8000 and 37 more" in " ".join(text.split())
    assert len(text.splitlines()) < 16
    down = shown(monkeypatch, live(*(instance(n, "ejected") for n in range(40))), 80)
    assert "and 32 more; --json has them all" in down


@pytest.mark.parametrize("width", [20, 40, 60, 80])
@pytest.mark.parametrize("number", [0, 1, 3, 40])
def test_no_line_of_status_is_wider_than_its_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int, number: int
) -> None:
    busy = live(*(instance(n, "ejected" if n == 2 else "ready", ttft_ms=12_345.6) for n in range(number)))
    busy.live["requests"] = {"in_flight": 1_234, "queued": 56_789, "total": 123_456_789}
    busy.live["embeddings"] = {"calls": 10**6, "texts": 10**9, "requests": 10**7, "texts_per_call": 31.4159}
    text = re.sub("\x1b\\[[0-9;]*m", "", shown(monkeypatch, busy, width))
    assert max(map(len, text.splitlines())) <= width
    assert "123,456,789 done" in " ".join(text.split())
    if width >= 60 and number:
        assert "12 s" in text


@pytest.mark.parametrize(
    ("states", "first"),
    [
        (("ejected", "ejected"), "running at http://127.0.0.1:8000, but no engine is ready (pid 1"),
        (("starting",), "running at http://127.0.0.1:8000, but no engine is ready (pid 1"),
        ((), "running at http://127.0.0.1:8000, without engines (pid 1"),
        (("ready", "ejected"), "running at http://127.0.0.1:8000 (pid 1"),
        (("draining", "asleep"), "running at http://127.0.0.1:8000, but no engine is ready (pid 1"),
    ],
)
def test_the_first_line_of_status_says_whether_engines_serve(
    monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...], first: str
) -> None:
    text = shown(monkeypatch, live(*(instance(n, state) for n, state in enumerate(states))), 80)
    assert text.startswith(first)


def test_config_show_has_a_row_for_each_value_of_an_entry(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "instances:\n"
        + "".join(f"  - {{url: 'http://127.0.0.1:900{n}', max_concurrent_requests: 64}}\n" for n in range(4))
        + "aliases: {gpt-4o: qwen}\napi_keys: [sk-hidden]\n"
    )
    shown = sage(tmp_path, "config", "show").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "instances[3].url http://127.0.0.1:9003 -" in lines
    assert any(line.startswith("instances[0].max_concurrent_requests 64 ") for line in lines)
    assert "aliases.gpt-4o qwen -" in lines
    assert "api_keys[0].key *** -" in lines
    assert "hidden" not in shown
    assert max(map(len, shown.splitlines())) < 110
