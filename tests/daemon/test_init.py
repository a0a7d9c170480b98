"""The gateway as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from sage_inference.config.paths import Paths
from sage_inference.daemon import pidfile
from tests.support.gateway import clean_environment, free_port

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _can_unshare() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_unshare(), reason="needs a pid namespace")


@contextmanager
def container(home: Path, *options: str) -> Iterator[tuple[psutil.Process, subprocess.Popen[bytes]]]:
    """Pid 1 as we see it, and the command that made the namespace."""
    words = ["inference", "start", "--port", str(free_port()), *options]
    with subprocess.Popen(
        [*UNSHARE, sys.executable, "-m", "sage_inference", *words],
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as made:
        assert made.stdout is not None
        try:
            assert b"gateway running" in made.stdout.readline()
            yield psutil.Process(made.pid).children()[0], made
        finally:
            made.kill()


def enter(first: psutil.Process, script: str) -> None:
    subprocess.run(
        ["nsenter", "--target", str(first.pid), "--pid", "sh", "-c", script], check=True, timeout=20
    )


def zombies(first: psutil.Process) -> int:
    return sum(status == psutil.STATUS_ZOMBIE for _, status in states(first))


def states(first: psutil.Process) -> list[tuple[str, str]]:
    """Name and state of each process below ``first``; one may end while it is looked at."""
    found: list[tuple[str, str]] = []
    for each in first.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append((each.name(), each.status()))
    return found


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_orphans_are_reaped_and_engines_keep_their_exit_status(tmp_path: Path) -> None:
    with container(tmp_path, "--simulate") as (first, made):
        for _ in range(5):
            enter(first, "(sleep 0.05 &) ; (true &) ; (sh -c 'sleep 0.05 & exit' &)")
        wait_until(lambda: all(name != "sleep" for name, _ in states(first)))
        wait_until(lambda: zombies(first) == 0)
        first.send_signal(signal.SIGTERM)
        # Engines are awaited by the event loop: if their statuses were lost, it would wait 5 s for each.
        assert made.wait(20) == 0
    log = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)}).log_file.read_text()
    assert '"stopped"' in log
    assert "exception" not in log


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 131), (signal.SIGUSR1, 138)],
)
def test_a_signal_to_pid_1_has_the_effect_that_it_has_elsewhere(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with container(tmp_path) as (first, made):
        first.send_signal(number)
        assert made.wait(20) == code


def test_a_hangup_of_pid_1_reloads(tmp_path: Path) -> None:
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    with container(tmp_path) as (first, _):
        first.send_signal(signal.SIGHUP)
        wait_until(lambda: '"reloaded: ' in paths.log_file.read_text())


def test_a_gateway_that_is_killed_ends_the_container(tmp_path: Path) -> None:
    with container(tmp_path) as (first, made):
        os.kill(first.children()[0].pid, signal.SIGKILL)
        assert made.wait(20) == 137


def test_a_restart_within_the_container_is_refused(tmp_path: Path) -> None:
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    with container(tmp_path):
        info = pidfile.read(paths.pid_file)
        assert info is not None
        assert info.supervised
