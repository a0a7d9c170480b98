"""The clients for Node. One process runs all steps of a script, and each step is a test here."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.clients.table import ROOT, Row, rows

SCRIPTS = ROOT / "tests" / "clients_node"
NODE_ROWS = [row for row in rows().values() if row.is_node]
STEPS = [
    pytest.param(row, step, id=f"{row.script}:{step}") for row in NODE_ROWS for step in sorted(row.tests)
]
# The tests of clients run without proxies, and npm may need them.
ENVIRONMENT = os.environ.copy()
Results = Callable[[Row], dict[str, str]]


def _installed() -> Path:
    """A folder of the user's cache with the packages of ``package.json``. npm and its settings find them."""
    manifest = (SCRIPTS / "package.json").read_bytes()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sage-inference-tests"
    folder = base / f"node-{hashlib.sha256(manifest).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of one run must not install at once
        if not (folder / "complete").exists():
            (folder / "package.json").write_bytes(manifest)
            options = (
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
                "--loglevel=error",
                "--fetch-retries=1",
            )
            try:
                subprocess.run(
                    ["npm", "install", *options],
                    cwd=folder,
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=100,
                    check=True,
                )
            except subprocess.SubprocessError as error:
                said = str(getattr(error, "stderr", None) or error).strip()
                pytest.skip(f"npm could not install the Node clients: {said[:300]}")
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each step of a client's script came to."""
    if not request.config.getoption("--all-clients"):
        pytest.skip("70 MB from npm are installed with --all-clients only")
    documented: Callable[[str], str] = request.getfixturevalue("documented")
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: Node 20 or newer is needed")
    packages = _installed()
    folder = tmp_path_factory.mktemp("node")
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")

    @cache
    def of(row: Row) -> dict[str, str]:
        done = subprocess.run(
            ["node", "run.mjs", f"./{row.script}"],
            cwd=folder,
            env=os.environ | {"CLIENT_LINE": documented(row.client)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    return of


@pytest.mark.parametrize(("row", "step"), STEPS)
def test_step(results: Results, row: Row, step: str) -> None:
    assert results(row)[step] == "ok"
