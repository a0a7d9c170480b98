"""Commands that are proposed are named as the program was called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import clean_environment


def called(home: Path, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from sage_inference._entry import main; sys.argv[0] = sys.argv.pop(1); sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, f"/opt/bin/{name}", *args],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sage", "sage inference start --background"),
        ("sage-inference", "sage-inference start --background"),
        ("sage-inference-gw", "sage-inference-gw start --background"),
        ("sage-gw", "sage-gw start --background"),
    ],
)
def test_hints_name_it(tmp_path: Path, name: str, says: str) -> None:
    failed = called(tmp_path, name, "inference", "reload")
    assert failed.stderr.splitlines()[-1] == f"hint: {says}"
    as_json = called(tmp_path, name, "inference", "reload", "--json")
    assert json.loads(as_json.stdout)["error"]["hint"] == says


@pytest.mark.parametrize("args", [("--help",), ("inference", "--help"), ("inference", "start", "--help")])
def test_help_names_it(tmp_path: Path, args: tuple[str, ...]) -> None:
    assert "sage inference start --simulate" in called(tmp_path, "sage", *args).stdout
    other = called(tmp_path, "sage-inference", *args).stdout
    assert "sage-inference start --simulate" in other
    assert "sage inference" not in other


def test_an_error_of_the_configuration_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &x 1\n")
    failed = called(tmp_path, "sage-inference", "config", "init")
    assert failed.stderr.splitlines()[-1] == "hint: sage-inference config edit changes it"
