"""Managed engines as people see them: the table of ``ps``, bars, and lines of a pipe, at every width."""

from __future__ import annotations

from typing import Any

import pytest

from sage_inference.cli import enginetext, ps
from sage_inference.cli.engineprogress import EngineProgress, bars
from sage_inference.cli.statusschemas import ENGINE
from tests.cli.shape import mistakes


def engine(name: str = "qwen", state: str = "ready", **more: Any) -> dict[str, Any]:
    """A document as ``/admin/engines`` has it."""
    found: dict[str, Any] = {
        "name": name, "model": "Qwen/Qwen2.5-7B-Instruct", "engine": "vllm", "kind": "llm", "state": state,
        "phase": None, "progress": None, "detail": None, "since_s": 41.2, "expected_s": None, "pid": 4321,
        "gpus": [0], "url": "http://127.0.0.1:18400", "restarts": 0, "adopted": False, "outdated": False,
        "failure": None, "warning": None, "in_flight": 0, "queued": 0, "uptime_s": None, "memory_mb": None, "log_file": "/x/output.log",
    }  # fmt: skip
    found |= more
    assert mistakes(found, ENGINE) == []
    return found


def failure(message: str, **more: Any) -> dict[str, Any]:
    return {"message": message, "hint": None, "permanent": True, "retry_in_s": None} | more


LONG = "an-engine-with-a-name-as-long-as-the-rules-allow-it-to-be-63-ab"
LOADING = engine(
    "bge-m3", "starting", phase="load", progress=0.48, detail="shard 2 of 4", expected_s=90.0, engine="tei"
)
EIGHT = [
    engine("qwen", uptime_s=4000.0, in_flight=2, queued=3, memory_mb=14000, restarts=2),
    LOADING,
    engine(
        LONG, "starting", phase="fetch", progress=0.034, detail="1.2 of 41.0 GB, 88 MB/s", gpus=[0, 1, 2, 3]
    ),
    engine(
        "llama", "failed", failure=failure("GPU 0 has 9.1 GiB free, llama needs 20.0", hint="unload qwen")
    ),
    engine("phi", "failed", failure=failure("the core crashed", permanent=False, retry_in_s=8.4)),
    engine("off", "off", pid=None),
    engine("old", outdated=True),
    engine("base", warning={"message": "it refuses chats", "hint": "set args: [--chat-template, FILE]"}),
    engine("stuck", "stuck"),
]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (engine(), "ready"),
        (engine(outdated=True), "ready, outdated"),
        (LOADING, "loading 48%"),
        (engine(state="starting", phase="warm"), "warming up"),
        (engine(state="starting", phase="capture", progress=1.7), "capturing 100%"),
        (engine(state="starting"), "starting up"),
        (engine(state="waiting"), "waiting"),
        (EIGHT[3], "failed"),
        (EIGHT[4], "failed, again in 8 s"),
        (
            engine(state="waiting", failure=failure("x", permanent=False, retry_in_s=3)),
            "failed, again in 3 s",
        ),
    ],
)
def test_the_state_is_one_short_text(document: dict[str, Any], words: str) -> None:
    assert enginetext.state(document) == words


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.9, "0:00"), (61, "1:01"), (3599, "59:59"), (7325, "2:02:05")]
)
def test_a_time_is_shown_as_a_clock_shows_it(seconds: float, shown: str) -> None:
    assert enginetext.clock(seconds) == shown


@pytest.mark.parametrize(
    ("megabytes", "shown"), [(None, "-"), (0, "-"), (38, "38 MiB"), (1023, "1023 MiB"), (14000, "13.7 GiB")]
)
def test_memory_is_shown_in_a_unit_that_fits_it(megabytes: int | None, shown: str) -> None:
    found = enginetext.columns([engine(memory_mb=megabytes)])
    assert [column.cells for column in found if column.header == "MEMORY"] == (
        [] if shown == "-" else [[shown]]
    )


def table_at(width: int | None, engines: list[dict[str, Any]], capsys: Any, monkeypatch: Any) -> list[str]:
    monkeypatch.setattr("sage_inference.cli.table.width_of_terminal", lambda: width)
    ps.show_table(engines)
    shown: str = capsys.readouterr().out
    return shown.splitlines()


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100, 140, 200, None])
def test_the_table_fits_and_has_each_engine(width: int | None, capsys: Any, monkeypatch: Any) -> None:
    lines = table_at(width, EIGHT, capsys, monkeypatch)
    assert width is None or max(map(len, lines)) <= width
    text = "".join(line.split("  ")[0] for line in lines)
    assert all(each["name"] in text for each in EIGHT)
    if width is None or width >= 40:
        assert lines[0].startswith("NAME ")
        assert "STATE" in lines[0]


def test_a_pipe_gets_all_columns_and_a_narrow_terminal_names_those_left_out(
    capsys: Any, monkeypatch: Any
) -> None:
    [head, *_] = table_at(None, EIGHT, capsys, monkeypatch)
    assert head.split() == [
        "NAME", "STATE", "REQUESTS", "UP", "ENGINE", "GPU", "MEMORY", "RESTARTS", "PID", "MODEL",
    ]  # fmt: skip
    monkeypatch.setattr("sage_inference.cli.table.width_of_terminal", lambda: 80)
    ps.show_table(EIGHT)
    shown = capsys.readouterr()
    left_out = shown.err.splitlines()[-1].removeprefix("no room for ").removesuffix("; --json has all")
    assert {*shown.out.splitlines()[0].split(), *left_out.split(", ")} == set(head.split())


def test_failures_are_below_the_table_with_their_hints(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sage_inference.cli.table.width_of_terminal", lambda: 80)
    ps.show_table(EIGHT)
    lines = capsys.readouterr().err.splitlines()
    at = lines.index("warning: llama: GPU 0 has 9.1 GiB free, llama needs 20.0")
    assert lines[at + 1] == "hint: unload qwen"
    assert "warning: phi: the core crashed" in lines
    assert "hint: sage inference engine restart old" in lines


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("plain", [False, True])
def test_each_engine_has_one_line_that_fits(width: int, plain: bool) -> None:
    lines = bars(EIGHT, width, plain=plain)
    assert len(lines) == len(EIGHT)
    assert max(map(len, lines)) <= width
    if plain:
        assert "".join(lines).isascii()


def test_a_line_has_phase_bar_percentage_time_and_detail() -> None:
    [line] = bars([LOADING], 80)
    assert line == f"bge-m3  loading      {'━' * 12}{'╌' * 12}  48%  0:41 of ~1:30  shard 2 of 4"
    [narrow] = bars([LOADING], 40)
    assert narrow == "bge-m3  loading       48%  0:41 of ~1:3…"


def test_a_value_cannot_steer_the_terminal() -> None:
    [line] = bars([LOADING | {"detail": "\x1b[2Jx\ny"}], 100)
    assert "\\x1b[2Jx\\ny" in line


def test_a_pipe_gets_a_line_for_each_phase(capsys: Any) -> None:
    steps: list[dict[str, Any]] = [
        {"state": "waiting", "detail": "qwen starts first"},
        {"state": "starting", "phase": "fetch", "progress": 0.1},
        {"state": "starting", "phase": "fetch", "progress": 0.2},
        {"state": "starting", "phase": "load", "progress": 0.0},
        {"state": "failed", "failure": failure("it ended", permanent=False, retry_in_s=2.0)},
        {"state": "failed", "failure": failure("it ended", permanent=False, retry_in_s=1.0)},
        {"state": "ready"},
        {"state": "ready"},
    ]
    with EngineProgress() as progress:
        for step in steps:
            progress.show([engine("a") | {"state": "ready"}, engine("b", **step)])
    assert capsys.readouterr().err.splitlines() == [
        "b: waiting, qwen starts first",
        "b: downloading 10%, 0:41",
        "b: loading 0%, 0:41",
        "b: failed, again in 2 s: it ended",
        "b: ready",
    ]
