"""Files of requests: traces and records, and what is no such file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sage_inference.replay.jobs import Job, WorkloadError
from sage_inference.replay.workload import read_workload
from sage_inference.types import RequestPriority, RequestType

TRACE = "t_ms,in_tokens,out_tokens,blocks\n0,1100,5,7-8 12\n3000,10,0,\n"


def written(path: Path, text: str | bytes) -> Path:
    file = path / "workload"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def entry(**different: Any) -> dict[str, Any]:
    return {
        "request_id": "a",
        "arrived_ms": 5000.0,
        "request_type": "llm_chat",
        "priority": 4,
        "tenant": "t",
        "deadline_ms": 800.0,
        "prompt_tokens": 200,
        "completion_tokens": 9,
        "blocks": [1, 2, 3, 4],
        "block_tokens": 63.7,
    } | different


def lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in entries)


@pytest.mark.parametrize(
    "pack", [str.encode, lambda text: gzip.compress(text.encode())], ids=["plain", "gzip"]
)
def test_a_trace_has_times_sizes_and_the_full_blocks_of_prompts(tmp_path: Path, pack: Any) -> None:
    workload = read_workload(written(tmp_path, pack(TRACE)), speed=2)
    assert workload.jobs == [Job(0.0, 1100, 5, (7, 8)), Job(1500.0, 10, 1, ())]
    assert workload.block_tokens == 512


def test_a_record_becomes_jobs_from_its_first_arrival_on(tmp_path: Path) -> None:
    other = entry(request_id="b", arrived_ms=6000.0, deadline_ms=None)
    workload = read_workload(written(tmp_path, lines(other, entry())), speed=2)
    chat, background = RequestType.LLM_CHAT, RequestPriority.BACKGROUND
    assert workload.jobs == [
        Job(0.0, 200, 9, (1, 2, 3), chat, background, "t", 800.0),
        Job(500.0, 200, 9, (1, 2, 3), chat, background, "t", None),
    ]
    assert workload.block_tokens == 64


@pytest.mark.parametrize("recorded", [{"streams": True}, {"streams": False}, {}])
def test_a_record_says_whether_the_answer_was_streamed(tmp_path: Path, recorded: dict[str, bool]) -> None:
    [job] = read_workload(written(tmp_path, lines(entry(**recorded)))).jobs
    assert job.streams is recorded.get("streams", True)


def test_what_is_no_text_or_never_ended_is_left_out_and_counted(tmp_path: Path) -> None:
    others = [entry(request_id="e", request_type="embedding"), entry(request_id="c", completion_tokens=None)]
    workload = read_workload(written(tmp_path, lines(entry(), *others)))
    assert (len(workload.jobs), workload.left_out) == (1, 2)


def test_of_several_attempts_the_last_counts(tmp_path: Path) -> None:
    workload = read_workload(written(tmp_path, lines(entry(completion_tokens=None), entry())))
    assert (len(workload.jobs), workload.left_out) == (1, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", ":1: no column in_tokens, out_tokens, t_ms"),
        (TRACE + "x,1,1,\n", ":4: a value is not a number"),
        (TRACE + "5\n", ":4: a value is not a number"),
        ("t_ms,in_tokens,out_tokens\n", "no request that can be replayed"),
        ("", ":1: no column"),
        ('{"request_id": "a"}\n', "lack what a replay needs"),
        ('{"request_id"', ":1: not a record"),
        ("{}\n", ":1: not a record"),
        (b"\xff\xfe\x00", "neither text nor gzip"),
        (gzip.compress(TRACE.encode())[:30], "neither text nor gzip"),
    ],
    ids=range(10),
)
def test_what_is_no_workload_is_told_with_its_place(tmp_path: Path, content: Any, said: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(WorkloadError) as caught:
        read_workload(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
