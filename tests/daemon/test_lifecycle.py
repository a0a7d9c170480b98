"""One gateway in the background, from start to stop, by the real command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage_inference.cli.status import document
from sage_inference.config.paths import Paths
from sage_inference.daemon import control, lock, pidfile
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port
from tests.support.rogue import RogueEngine, ok


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.stop(paths(tmp_path), force=True)


def paths(home: Path) -> Paths:
    return Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})


def start(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return sage(home, "start", "--background", "--port", str(free_port()), *args)


def status(home: Path) -> dict[str, object]:
    """What ``status --json`` prints, without a process of its own."""
    return document(control.inspect(paths(home)))


def test_start_status_reload_restart_stop(home: Path) -> None:
    with RogueEngine(ok()) as engine:
        started = start(home, "--llm-backend", engine.url)
        assert started.returncode == 0, started.stderr
        assert "gateway running at http://127.0.0.1:" in started.stdout
        assert "curl http" in started.stdout
        running = json.loads(sage(home, "status", "--json").stdout)
        assert (running["state"], running["schema"]) == ("running", 1)
        assert sage(home, "reload").stdout == "reloaded: nothing to apply\n"
        restarted = sage(home, "restart")
        assert restarted.returncode == 0, restarted.stderr
        again = status(home)
        assert again["address"] == running["address"]
        assert again["pid"] != running["pid"]
        assert sage(home, "stop").stdout == f"stopped (pid {again['pid']})\n"
        stopped = sage(home, "status")
        assert (stopped.returncode, stopped.stdout) == (3, "not running\n")
        assert sage(home, "stop").returncode == 0


def test_warnings_on_models_are_shown_at_the_start_once_and_in_status(home: Path) -> None:
    with RogueEngine(ok()) as engine:
        slo = "models: {gpt: {ttft_ms: 5}, m: {ttft_ms: 6}, gone: {ttft_ms: 7}}"
        home.mkdir(exist_ok=True)
        (home / "config.yaml").write_text(
            f"instances: [{engine.url}]\naliases: {{gpt: m}}\nscheduling: {{slo: {{{slo}}}}}\n"
        )
        twins = '"gpt" and "m" are names of one model'
        gone = 'scheduling.slo.models.gone: no engine serves a model "gone"'
        validated, started, shown = sage(home, "config", "validate"), start(home), sage(home, "status")
    assert [twins in validated.stderr, gone in validated.stderr] == [True, False]
    assert (started.returncode, shown.returncode) == (0, 0)
    for stderr in (started.stderr, shown.stderr):
        assert (stderr.count(twins), stderr.count(gone)) == (1, 1)


def test_a_second_start_is_refused_and_names_the_first(home: Path) -> None:
    assert start(home).returncode == 0
    second = start(home)
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: the gateway is already running (pid {status(home)['pid']})\n")


def test_many_starts_at_once_give_one_gateway_and_refusals(home: Path) -> None:
    port = str(free_port())
    command = [sys.executable, "-m", "sage_inference", "inference", "start", "--background", "--port", port]

    def one(_: int) -> tuple[int, str]:
        ended = subprocess.run(
            command, env=clean_environment(home), capture_output=True, text=True, timeout=100, check=False
        )
        return ended.returncode, ended.stderr

    many = 10  # each takes half a second of CPU
    with ThreadPoolExecutor(many) as pool:
        results = list(pool.map(one, range(many)))
    pid = status(home)["pid"]
    assert sorted(code for code, _ in results) == [0] + [1] * (many - 1), results
    assert all(f"already running (pid {pid})" in text for code, text in results if code)


def test_a_taken_port_names_its_holder(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = sage(home, "start", "--background", "--port", str(port))
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            "scheduling:\n  polcy: x\n",
            "config.yaml:2:3: unknown key scheduling.polcy; did you mean scheduling.policy?",
        ),
        ("server: {port: 99999}\n", "server.port must be"),
        ("a: [1\n", "config.yaml:"),
        ('api_keys: [{key: "file:/no/such/file"}]\n', 'api_keys[0]: file "/no/such/file" is not readable'),
        ("server: {host: 0.0.0.0}\n", "there are no api_keys"),
    ],
    ids=["unknown key", "out of range", "syntax", "key file", "open to the network"],
)
def test_a_bad_configuration_is_one_clear_line(home: Path, config: str, says: str) -> None:
    (home / "config.yaml").write_text(config)
    ended = start(home)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ended.stderr
    assert status(home)["state"] == "stopped"


def test_an_unreachable_backend_is_a_warning_not_an_error(home: Path) -> None:
    ended = start(home, "--llm-backend", f"127.0.0.1:{free_port()}")
    assert ended.returncode == 0
    assert "warning: instance" in ended.stderr
    assert "connection refused" in ended.stderr


def test_after_kill_9_status_says_dead_and_start_works(home: Path) -> None:
    start(home)
    pid = int(str(status(home)["pid"]))
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    import select

    select.select([handle], [], [], 10)  # readable once it has ended
    os.close(handle)
    dead = sage(home, "status")
    assert (dead.returncode, dead.stdout.split(" ")[0]) == (1, "dead")
    assert start(home).returncode == 0
    assert status(home)["state"] == "running"


def test_a_hung_gateway_is_said_to_hang_and_stop_force_ends_it(home: Path) -> None:
    start(home)
    pid = int(str(status(home)["pid"]))
    os.kill(pid, signal.SIGSTOP)
    hung = sage(home, "status", timeout=3)
    assert hung.returncode != 0
    assert "stop --force" in hung.stdout + hung.stderr
    assert sage(home, "stop").returncode == 1
    assert sage(home, "stop", "--force").returncode == 0
    assert not Path(f"/proc/{pid}").exists() or control.inspect(paths(home)).state == "stopped"


def test_a_pidfile_that_names_a_foreign_process_is_never_signalled(home: Path) -> None:
    start(home)
    info = pidfile.read(paths(home).pid_file)
    assert info is not None
    control.stop(paths(home))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreign:
        from dataclasses import replace

        from sage_inference.daemon.process import create_time

        for created in (info.create_time, create_time(foreign.pid) or 0.0):
            pidfile.write(paths(home).pid_file, replace(info, pid=foreign.pid, create_time=created))
            assert status(home)["state"] in ("dead", "stopped")
            sage(home, "stop", "--force")
        assert foreign.poll() is None
        foreign.communicate(b"\n")
        assert foreign.returncode == 0


def test_no_key_stands_on_a_command_line_or_in_a_file(home: Path) -> None:
    secret = "sk-very-secret-0123456789"
    ended = start(home, "--api-key", secret)
    assert ended.returncode == 0
    assert "env:NAME or file:PATH" in ended.stderr
    pid = status(home)["pid"]
    assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    written = [file for file in home.rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written if secret.encode() in file.read_bytes()]
    assert secret not in sage(home, "status", "--json").stdout
    restarted = sage(home, "restart")
    assert (restarted.returncode, "give it again" in restarted.stderr) == (1, True)
    assert sage(home, "restart", "--api-key", secret).returncode == 0


def test_files_are_for_their_owner_only(home: Path) -> None:
    start(home)
    found = paths(home)
    for file in (found.lock_file, found.pid_file, found.log_file):
        assert file.stat().st_mode & 0o077 == 0, file
    for directory in (found.state_dir, found.log_dir):
        assert directory.stat().st_mode & 0o077 == 0, directory


def test_a_start_keeps_the_old_log(home: Path) -> None:
    start(home)
    control.stop(paths(home))
    before = paths(home).log_file.read_text()
    start(home)
    assert paths(home).log_file.read_text().startswith(before)


def test_a_bad_reload_is_refused_and_the_old_configuration_holds(home: Path) -> None:
    start(home)
    (home / "config.yaml").write_text("scheduling: {policy: best}\n")
    ended = sage(home, "reload")
    assert ended.returncode == 1
    assert "the old configuration stays" in ended.stderr
    assert status(home)["state"] == "running"


def test_the_lock_is_let_go_in_order(home: Path) -> None:
    start(home)
    assert lock.look(paths(home).lock_file).held
    sage(home, "stop")
    held = lock.look(paths(home).lock_file)
    assert (held.held, held.left_behind) == (False, False)
