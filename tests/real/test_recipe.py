"""The recipe of the real engines says why it cannot work, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.real.engine import GUARD
from tests.real.install import CannotInstallError, ensure_vllm

# A child in a session of its own that ignores SIGTERM, as nothing but the guard's own search could find.
STUBBORN = """
import signal, subprocess, sys, time
if sys.argv[1:]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_guard_ends_every_process_when_its_input_closes(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    argv = [sys.executable, str(GUARD), "--patience=0.2", sys.executable, str(script)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        child = int(guard.stdout.readline())
        assert psutil.pid_exists(child)
        guard.communicate(timeout=20)  # closes its input
    assert not psutil.pid_exists(child)


def test_guard_ends_when_its_command_does() -> None:
    argv = [sys.executable, str(GUARD), sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as guard:
        assert guard.wait(20) == 7


def test_python_without_pinned_wheels_is_told_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        CannotInstallError, match=r"no python3\.11 on the PATH; run pytest with --no-real-eng"
    ):
        ensure_vllm()


def test_other_system_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CannotInstallError, match=r"built for Linux.*--no-real-engines"):
        ensure_vllm()
