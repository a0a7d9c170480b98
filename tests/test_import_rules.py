"""The rooms of the package: imports point down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sage_inference"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("wire/timers.py", "gateway.protocol"),
        ("client/work.py", "library.options"),
    ],
)
def test_an_import_that_points_up_breaks_the_contract(tmp_path: Path, low: str, high: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / PACKAGE.name / low
    planted.write_text(
        planted.read_text() + f"\nif TYPE_CHECKING:\n    import sage_inference.{high}  # noqa: E402\n"
    )
    outcome = subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    room = low.partition("/")[0]
    assert (
        f"sage_inference.{room} is not allowed to import sage_inference.{high.partition('.')[0]}"
        in outcome.stdout
    )
