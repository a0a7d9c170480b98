"""``gpu``: its flow before simulated engines, what stops it, and its preparation."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.errors import BenchError
from tests.bench.gpu.arguments import check
from tests.bench.gpu.engines import vllm_arguments
from tests.bench.gpu.options import parse
from tests.bench.gpu.packing import pack
from tests.bench.gpu.parts import PARTS
from tests.bench.gpu.run import read_rows
from tests.bench.gpu.specs import SPECS
from tests.bench.gpu.traces import write_traces
from tests.bench.gpu.windows import window
from tests.replay.records import entries, looped, played


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    write_traces(tmp_path / "traces")
    yield tmp_path
    _run(tmp_path, "--stop")


def _run(results: Path, *words: str) -> int:
    traces = str(results / "traces")
    return main(["gpu", "run", "--results", str(results), "--traces", traces, "--sim", "20", *words])


def test_a_run_goes_on_where_the_last_call_ended_and_stops_without_an_engine(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(results, "start:engines=a+e,also=", "--within", "60") == 0
    started = read_rows(results)
    assert {row["engine"]: row["first_answer"] for row in started} == {"a": 200, "e": 200}
    parts = ("start:engines=a+e,also=", "functions", "mixed:window=0.3,loads=2.5/uncontrolled")
    assert _run(results, *parts) == 0
    rows = read_rows(results)
    assert rows[: len(started)] == started  # none of them was measured again
    assert not [row for row in rows if "error" in row or row.get("ok") is False]
    assert rows[-1]["embedding_failed"] == 0
    shown = capsys.readouterr().out
    assert "| azure x 2.5 | uncontrolled | " in shown
    assert "| stream | yes | " in shown
    assert _run(results, "sleep") == 4
    assert "sleep is left out: not healthy: s, t" in capsys.readouterr().err
    assert _run(results, "--within", "1", "overhead") == 4
    assert "no time for overhead/1/0/direct" in capsys.readouterr().err
    _run(results, "--stop")
    assert _run(results, "overhead") == 3
    assert "STOP: not healthy: a" in capsys.readouterr().err


def test_a_closed_loop_is_replayed_from_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = played(looped(4, 12))
    lines = [json.dumps(line) for line in entries(outcomes)]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "loop.jsonl").write_text("\n".join(lines) + "\n")
    firsts = sorted(outcome.ttft_ms or 0.0 for outcome in outcomes)
    measured = {"key": "closed/4/0/hybrid", "streams": 4, "round": 0, "way": "hybrid", "record": "loop.jsonl"}
    shown = ("output_per_s", "longest_wait_ms", "starving", "ttft_p99_ms", "tpot_p50_ms", "good_share")
    row = measured | dict.fromkeys(shown) | {"ttft_p50_ms": firsts[len(firsts) // 2]}
    (tmp_path / "figures.jsonl").write_text(json.dumps(row) + "\n")
    assert _run(tmp_path, "replayed") == 0
    [_, found] = read_rows(tmp_path)
    assert found["simulated_ttft_p50_ms"] == pytest.approx(found["measured_ttft_p50_ms"], rel=0.1)
    assert "| closed 4 | 0 | hybrid | " in capsys.readouterr().out


def test_a_window_has_the_requests_of_its_first_seconds(tmp_path: Path) -> None:
    write_traces(tmp_path)
    file = window(tmp_path, "crowd", 0.5, 10, tmp_path / "windows")
    times = [float(line.split(",")[0]) for line in file.read_text().splitlines()[1:]]
    assert 60 < len(times) < 140
    assert max(times) < 5000
    with pytest.raises(BenchError, match="no trace"):
        window(tmp_path, "other", 1, 1, tmp_path)


def test_a_wheel_is_packed_without_what_no_dense_model_loads(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "vllm-1-py3-none-any.whl", "w") as wheel:
        for name in ("vllm/a.py", "vllm/_moe_C_stable.so", "x.data/purelib/b.py", "x.data/scripts/c"):
            wheel.writestr(name, "text")
    pieces = pack(tmp_path / "none", wheels, tmp_path / "out", 0.0001)
    assert len(pieces) > 1
    whole = tmp_path / "whole.tar.xz"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(whole) as tar:
        assert sorted(entry.name for entry in tar if entry.isfile()) == ["./b.py", "./vllm/a.py"]


@pytest.mark.parametrize("word", ["rounds", "rounds=x", "other=1"])
def test_a_wrong_option_of_a_part_is_named(word: str) -> None:
    with pytest.raises(BenchError, match=r"rounds|other"):
        parse(word, PARTS["closed"].defaults).count("rounds")


def test_every_engine_has_arguments_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    for spec in SPECS.values():
        given = vllm_arguments(spec, 8001, tmp_path, 0)
        assert given[given.index("--port") + 1] == "8001"
        assert ("dummy" in given) is spec.random_weights
    with pytest.raises(BenchError, match='no engine "x"'):
        check(["x"], tmp_path, print)
