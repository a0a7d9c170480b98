"""Traces are read exactly, and a mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.bench.errors import BenchError
from sage_inference.bench.trace import TraceRow, read


def write(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_rows_with_and_without_blocks(tmp_path: Path) -> None:
    text = "t_ms,in_tokens,out_tokens,blocks\n0,600,5,0-1\n12.5,1600,7,0 9-11\n13,4,1,\n"
    assert read(write(tmp_path, text)) == [
        TraceRow(0, 600, 5, (0, 1)),
        TraceRow(12.5, 1600, 7, (0, 9, 10, 11)),
        TraceRow(13, 4, 1),
    ]
    assert read(write(tmp_path, "t_ms,in_tokens,out_tokens\n7,1,2\n")) == [TraceRow(7, 1, 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: the columns"),
        ("a,b\n1,2\n", ":1: the columns"),
        ("t_ms,in_tokens,out_tokens\n", "has no requests"),
        ("t_ms,in_tokens,out_tokens\n0,1,2\n5,x,2\n", ":3: no request: 5,x,2"),
        ("t_ms,in_tokens,out_tokens\n0,1\n", ":2: no request"),
        ("t_ms,in_tokens,out_tokens\n0,0,2\n", ":2: no request"),
        ("t_ms,in_tokens,out_tokens\nnan,1,2\n", ":2: no request"),
        ("t_ms,in_tokens,out_tokens\n5,1,2\n4,1,2\n", ":3: t_ms is under"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BenchError) as error:
        read(write(tmp_path, text))
    assert says in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read: No such file"):
        read(tmp_path / "none.csv")
