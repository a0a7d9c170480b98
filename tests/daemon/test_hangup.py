"""SIGHUP: a closed terminal ends the gateway that was started on it; a signal from a person reloads."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sage_inference.config.paths import Paths
from sage_inference.daemon import control, lock, pidfile
from tests.support.gateway import clean_environment, free_port

PATIENCE_S = 40.0


class OnTerminal:
    """``sage inference start`` on a pseudo-terminal of its own, under a shell's words."""

    def __init__(self, home: Path, before: str = "exec", after: str = "", simulate: bool = False) -> None:
        self.paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})
        options = "--simulate" if simulate else ""
        command = f"{before} {sys.executable} -m sage_inference inference start --port {free_port()} {options} {after}"
        self.shell, self.master = pty.fork()
        if self.shell == 0:
            os.chdir(home)
            os.execve("/bin/sh", ["sh", "-c", command], clean_environment(home))
        self.closed = False
        wait_until(lambda: control.inspect(self.paths).state == "running")
        info = pidfile.read(self.paths.pid_file)
        assert info is not None
        self.info = info

    def close(self) -> None:
        if not self.closed:
            os.close(self.master)
            self.closed = True

    def reloads(self) -> int:
        return self.paths.log_file.read_text().count('"reloaded: ')

    def end(self) -> None:
        control.stop(self.paths, force=True)
        self.close()
        os.waitpid(self.shell, 0)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.stop(Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)}), force=True)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_closed_terminal_ends_the_gateway_and_its_engines(home: Path) -> None:
    gateway = OnTerminal(home, simulate=True)
    engines = psutil.Process(gateway.info.pid).children(recursive=True)
    assert engines
    gateway.close()
    _, status = os.waitpid(gateway.shell, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    held = lock.look(gateway.paths.lock_file)
    assert (held.held, held.left_behind, gateway.paths.pid_file.exists()) == (False, False, False)
    psutil.wait_procs(engines, timeout=10)
    assert not [engine for engine in engines if engine.is_running() and engine.status() != "zombie"]
    assert "the terminal was closed" in gateway.paths.log_file.read_text()


def test_a_signal_from_another_terminal_reloads(home: Path) -> None:
    gateway = OnTerminal(home)
    os.kill(gateway.info.pid, signal.SIGHUP)
    wait_until(lambda: gateway.reloads() == 1)
    control.reload(gateway.paths)
    assert control.inspect(gateway.paths).pid == gateway.info.pid
    gateway.end()


def test_a_gateway_behind_a_shell_ends_with_the_terminal(home: Path) -> None:
    # sh waits for it, and both are in the foreground: a lost ssh session, a closed pane.
    gateway = OnTerminal(home, before="", after="; exit 7")
    assert gateway.info.pid != gateway.shell
    gateway.close()
    os.waitpid(gateway.shell, 0)
    wait_until(lambda: control.inspect(gateway.paths).state == "stopped")


@pytest.mark.parametrize("before", ["exec nohup", "trap '' HUP; exec"], ids=["nohup", "ignored"])
def test_a_hangup_that_is_ignored_at_the_start_stays_ignored(home: Path, before: str) -> None:
    gateway = OnTerminal(home, before=before)
    gateway.close()
    os.kill(gateway.info.pid, signal.SIGHUP)
    control.reload(gateway.paths)
    assert control.inspect(gateway.paths).pid == gateway.info.pid
    assert gateway.reloads() == 1
    gateway.end()


def test_a_gateway_in_a_session_of_its_own_outlives_the_terminal_and_reloads(home: Path) -> None:
    gateway = OnTerminal(home, before="exec setsid --wait")
    os.kill(gateway.info.pid, signal.SIGHUP)
    wait_until(lambda: gateway.reloads() == 1)
    gateway.close()
    os.waitpid(gateway.shell, 0)
    os.kill(gateway.info.pid, signal.SIGHUP)
    wait_until(lambda: gateway.reloads() == 2)
    control.stop(gateway.paths)


def test_without_a_terminal_a_hangup_reloads(home: Path) -> None:
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})
    with subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", "start", "--port", str(free_port())],
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert b"gateway running" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: '"reloaded: ' in paths.log_file.read_text())
        assert control.inspect(paths).state == "running"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
