"""A start in the background that comes to nothing: one clear cause, and nothing left running."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.config.errors import ConfigError
from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import control, lock
from sage_inference.daemon.errors import AlreadyRunning, DaemonError, StartFailed, StartTimeout
from sage_inference.daemon.launch_spec import LaunchSpec, recordable
from sage_inference.daemon.spawn import start_background
from tests.support.gateway import free_port


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    found = Paths.resolve()
    yield found
    control.stop(found, force=True)


@pytest.fixture
def flags() -> Flags:
    return Flags(port=free_port())


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """What is started in place of Python: a program that fails in its own way."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo first >&2; echo cannot load libfoo >&2; exit 3",
            "exited with status 3 before it was ready: cannot load libfoo",
        ),
        ("exit 0", "exited with status 0 before it was ready: it gave no reason"),
        ("kill -9 $$", "was killed by SIGKILL before it was ready: it gave no reason"),
    ],
    ids=["last words", "silence", "signal"],
)
def test_a_death_before_readiness_is_told_with_its_cause(
    paths: Paths, flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    interpreter(tmp_path, monkeypatch, script)
    with pytest.raises(StartFailed) as failed:
        start_background(paths, flags)
    assert str(failed.value) == f"gateway {says}"
    assert failed.value.hint == "sage inference logs -n 20"


def test_one_that_is_not_ready_in_time_is_ended(paths: Paths, flags: Flags) -> None:
    with pytest.raises(StartTimeout, match=r"not ready within 0\.02 s and was ended"):
        start_background(paths, flags, timeout_s=0.02)
    assert control.inspect(paths).state == "stopped"


def test_ctrl_c_while_waiting_leaves_nothing_running(
    paths: Paths, flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(KeyboardInterrupt):
        start_background(paths, flags, on_wait=lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_the_background_process_finds_wrong_is_told_as_it_is(paths: Paths, flags: Flags) -> None:
    paths.state_dir.mkdir(parents=True)
    paths.pid_file.mkdir()  # cannot be written over
    with pytest.raises(DaemonError, match=r"inference\.json cannot be written: Is a directory") as failed:
        start_background(paths, flags)
    assert "SAGE_INFERENCE_HOME" in str(failed.value.hint)
    paths.pid_file.rmdir()


def test_a_bad_configuration_starts_nothing(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="--scheduling-policy"):
        start_background(paths, Flags(scheduling_policy="best"))
    with pytest.raises(ConfigError, match="there is no such file"):
        start_background(paths, Flags(), config_required=True)
    assert not paths.state_dir.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, flags: Flags) -> None:
    (tmp_path / "file").touch()
    paths = Paths(tmp_path / "c.yaml", tmp_path / "file" / "state", tmp_path / "logs")
    with pytest.raises(DaemonError, match="cannot be"):
        start_background(paths, flags)


def test_a_started_one_has_no_terminal_no_input_and_a_session_of_its_own(paths: Paths, flags: Flags) -> None:
    started = start_background(paths, flags)
    proc = Path(f"/proc/{started.pid}")
    if not proc.exists():
        pytest.skip("no /proc here")
    assert (proc / "fd" / "0").readlink() == Path("/dev/null")
    assert os.getsid(started.pid) == started.pid
    pipes = [fd for fd in (proc / "fd").iterdir() if str(fd.readlink()) == f"pipe:[{os.fstat(1).st_ino}]"]
    assert not pipes, "it must not keep the output of who started it open"
    with pytest.raises(AlreadyRunning) as refused:
        start_background(paths, flags)
    assert refused.value.pid == started.pid


def test_an_order_survives_its_way_through_the_pipe(paths: Paths) -> None:
    spec = LaunchSpec(paths, Flags(port=1, llm_backends=("a", "b"), api_key="secret\n"), True)
    assert LaunchSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"paths": {"a": 1}, "flags": {}}', b"null"])
def test_garbage_is_no_order(raw: bytes) -> None:
    with pytest.raises(ValueError):
        LaunchSpec.from_json(raw)


@pytest.mark.parametrize(("key", "kept"), [("literal", None), ("env:KEY", "env:KEY"), ("file:k", "file:k")])
def test_only_a_literal_key_is_not_written_down(key: str, kept: str | None) -> None:
    assert recordable(Flags(api_key=key))["api_key"] == kept


@pytest.mark.parametrize(
    "arguments", [[], ["--ready-fd"], ["--ready-fd", "x"], ["--ready-fd", "999"], ["a", "b", "c"]]
)
def test_the_background_module_called_by_hand_says_what_to_call(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "sage_inference.daemon", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_the_lock_is_free_the_moment_a_gateway_with_engines_is_killed(paths: Paths, flags: Flags) -> None:
    started = start_background(paths, Flags(port=flags.port, simulate=True))
    handle = os.pidfd_open(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
    os.close(handle)
    assert not lock.look(paths.lock_file).held
    assert control.inspect(paths).state == "dead"
