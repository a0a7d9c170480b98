"""``replay`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.support.command import sage

TRACE = "t_ms,in_tokens,out_tokens\n" + "".join(f"{n * 100},500,20\n" for n in range(50))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return str(file)


def test_policies_are_shown_side_by_side(tmp_path: Path, trace: str) -> None:
    shown = sage(tmp_path, "replay", trace, "-p", "round_robin", "-p", "hybrid", "--instances", "2")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("50 requests in 5 s, 2 modelled engines")
    assert [line.split()[0] for line in lines[1:]] == ["POLICY", "round_robin", "hybrid"]
    assert "100.0 %" in lines[2]


def test_figures_for_scripts_are_as_their_schema_says(tmp_path: Path, trace: str) -> None:
    found = json.loads(sage(tmp_path, "replay", trace, "--json").stdout)
    assert mistakes(found, ANSWERS["replay"]) == []
    assert [each["policy"] for each in found["policies"]] == ["hybrid", "least_loaded"]
    assert found["policies"][0]["finished"] == 50


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere.csv",), "nowhere.csv: no such file or directory"),
        (("FILE", "-p", "hybrd"), "did you mean hybrid?"),
    ],
)
def test_a_failure_says_what_and_where(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    failed = sage(tmp_path, "replay", *args)
    assert failed.returncode in (1, 2)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
