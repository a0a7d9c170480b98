"""Our own child processes run our code and Python's, whatever lies in the current directory."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference import interpreter
from sage_inference.engines.processes import simulated
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port

TRAPS = ("random", "nt", "json", "typing", "asyncio", "uvloop", "sage_inference", "runpy", "importlib")
MODULES = ("sage_inference.simulator", "sage_inference.daemon")


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory whose files, if imported, leave a mark and break what imports them."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'executed')!r}, 'a').write({name!r})\n1/0\n")
    monkeypatch.chdir(folder)
    yield folder
    assert not (folder / "executed").exists(), (folder / "executed").read_text()


@pytest.mark.parametrize("path", [None, "", ":", "{other}:", ":{other}", ".:{other}", "./", "{other}::"])
@pytest.mark.parametrize("module", MODULES)
def test_module_runs_without_importing_from_the_current_directory(
    module: str, path: str | None, trapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path.format(other=tmp_path))
    found = subprocess.run(
        interpreter.command(module, "--no-such-option"),
        env=interpreter.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr


def test_entries_of_pythonpath_that_name_a_directory_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}:rel:.")
    assert interpreter.environment()["PYTHONPATH"] == f"{tmp_path}:rel"


def test_child_imports_the_package_that_its_parent_imported(tmp_path: Path) -> None:
    """A copy that is on the parent's path alone is what the child runs, and not an installed one."""
    root = Path(interpreter.__file__).resolve().parent
    copy = tmp_path / "sage_inference"
    copy.mkdir()
    for name in ("interpreter.py", "_launch.py"):
        (copy / name).write_bytes((root / name).read_bytes())
    (copy / "__init__.py").touch()
    (copy / "here.py").write_text("import sys; print(__name__, __file__, *sys.argv[1:])")
    parent = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "from sage_inference.interpreter import command, environment\n"
        "subprocess.run(command('sage_inference.here', 'a', '-b'), env=environment(), check=True)"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", parent, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["__main__", str(copy / "here.py"), "a", "-b"]


@pytest.mark.parametrize("module", [False, True], ids=["program", "python -m"])
def test_simulated_engines_start_in_a_directory_of_traps(trapped: Path, tmp_path: Path, module: bool) -> None:
    program = [str(Path(sys.executable).parent / "sage-inference")]
    if module:
        program = [sys.executable, "-m", "sage_inference"]
        for name in ("sage_inference", "runpy", "importlib", "typing"):  # imported before our first line runs
            (trapped / f"{name}.py").unlink()
    environ = clean_environment(tmp_path)

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *args], env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    try:
        started = run("start", "--simulate", "--background", "--port", str(free_port()))
        assert started.returncode == 0, started.stderr
        assert json.loads(run("status", "--json").stdout)["state"] == "running"
    finally:
        run("stop", "--force")


@pytest.mark.parametrize(
    ("printed", "then", "expected"),
    [
        ("no json", "import time; time.sleep(60)", "was not ready within 2 s; it printed 'no json'"),
        ('{"half": ', "os._exit(3)", "ended with status 3 before it was ready; it printed '{\"half\":'"),
        ("[1]", "os._exit(0)", "ended with status 0 before it was ready; it printed '[1]'"),
        ("x" * 200000, "os._exit(1)", "a line that is too long"),
        ("[" * 50000, "os._exit(1)", "it printed '[[[["),
        ('{"url": 1}', "os._exit(1)", "it printed '{\"url\": 1}'"),
        ("\x1b[31m", "os._exit(1)", "it printed '\\x1b[31m'"),
    ],
    ids=["words", "half a document", "another document", "long line", "deep", "no address", "escapes"],
)
def test_engine_that_prints_no_ready_line_is_an_error_that_quotes_it(
    printed: str, then: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os; print({printed!r}, flush=True); {then}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(simulated, "READY_S", 2 if "sleep" in then else 15)
    with pytest.raises(simulated.SimulatorError) as raised:
        asyncio.run(simulated.start("tei"))
    assert expected in str(raised.value)


def test_lines_before_the_ready_line_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('a greeting of this site', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def scenario() -> int:
        return await (await simulated.start("tei")).stop()

    assert asyncio.run(scenario()) == 0


@pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
def test_start_names_the_simulated_engine_that_did_not_start(more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'sage_inference.simulator' in sys.orig_argv: print('no room', flush=True); os._exit(4)"
    )
    found = sage(tmp_path, "start", "--simulate", "--port", str(free_port()), *more, PYTHONPATH=str(tmp_path))
    assert found.returncode == 1
    expected = (
        r"error: the simulated (vllm|tei) ended with status 4 before it was ready; it printed 'no room'"
    )
    assert re.search(expected, found.stderr)
    assert "this is a bug" not in found.stderr
