"""A pid is only a number: signals go to the process that was meant, or to none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sage_inference.daemon.process import Process, create_time


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def identify(child: subprocess.Popen[bytes]) -> Process:
    began = create_time(child.pid)
    assert began is not None
    return Process(child.pid, began)


def test_a_living_process_is_alive_and_takes_signals(child: subprocess.Popen[bytes]) -> None:
    process = identify(child)
    assert process.alive
    assert process.send(signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    assert not process.alive
    assert not process.send(signal.SIGTERM)


def test_a_reused_pid_is_not_the_process_and_is_not_signalled(child: subprocess.Popen[bytes]) -> None:
    process = identify(child)
    former = Process(child.pid, process.create_time - 60)
    assert not former.alive
    assert not former.send(signal.SIGKILL)
    assert process.alive


def test_a_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    process = identify(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet reaped
    assert not process.alive


def test_a_suspended_process_is_alive_and_said_to_be_suspended(child: subprocess.Popen[bytes]) -> None:
    process = identify(child)
    assert not process.suspended
    process.send(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert (process.alive, process.suspended) == (True, True)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_pid_of_nobody_has_no_create_time(pid: int) -> None:
    assert create_time(pid) is None
    assert not Process(pid, 0.0).send(signal.SIGKILL)


def test_a_program_name_with_brackets_and_spaces_is_no_trouble() -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0); print(1, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert identify(odd).alive
        odd.kill()
