"""The benchmark's own command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.home import bench_home
from tests.bench.targets.peers import PEERS, available


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "compare" in told
    assert "install" in told


def test_an_unknown_peer_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "envoy"]) == 1
    assert 'unknown peer "envoy"; known: vllm-router' in capsys.readouterr().err


def test_the_home_can_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGE_BENCH_HOME", str(tmp_path))
    assert bench_home() == tmp_path
    assert not available("vllm-router")
    monkeypatch.delenv("SAGE_BENCH_HOME")
    assert bench_home().name == "sage-inference-bench"


def test_every_peer_can_be_asked_for() -> None:
    assert list(PEERS) == ["nginx", "haproxy", "vllm-router", "sglang-router", "smg", "litellm"]


def test_a_peer_of_another_version_is_installed_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGE_BENCH_HOME", str(tmp_path))
    marker = tmp_path / "venv" / "litellm" / ".done"
    marker.parent.mkdir(parents=True)
    marker.write_text("litellm==1.79.0\n")
    assert not available("litellm")
    marker.write_text("litellm==1.80.0\n")
    assert available("litellm")


def test_chat_is_measured_beside_curl(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert main(["chat", "--runs", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(
        r"^curl: median \d+ ms.*\nchat: median \d+ ms.*\nchat takes -?\d+ ms more than curl$", shown, re.M
    )
