"""A restart never leaves less than it found: the old gateway serves until the new one does."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import control, lock, pidfile
from sage_inference.daemon.errors import DaemonError, StopFailed
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.restart import restart
from sage_inference.daemon.spawn import start_background
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port
from tests.support.rogue import RogueEngine, Wire


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    """A gateway that no restart of these tests may end."""
    found = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path_factory.mktemp("home"))})
    start_background(found, Flags(port=free_port()))
    yield found
    control.stop(found, force=True)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    yield found
    control.stop(found, force=True)


def info_of(paths: Paths) -> PidInfo:
    info = pidfile.read(paths.pid_file)
    assert info is not None
    return info


def get(port: int, path: str = "/health/live") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65536), b""))


def assert_goes_on(paths: Paths, before: PidInfo, says: str) -> None:
    with pytest.raises(DaemonError) as failed:
        restart(paths)
    assert says in failed.value.problem
    assert f"pid {before.pid} goes on as before" in failed.value.problem
    assert (failed.value.hint or "no hint") not in failed.value.problem
    assert info_of(paths) == before
    assert control.inspect(paths).state == "running"
    assert get(before.port).startswith(b"HTTP/1.1 200")


CONFIGS = {
    "syntax": ("server: [1\n", "config.yaml:"),
    "unknown key": ("sever: {}\n", "unknown key"),
    "key file": ("api_keys: [{key: 'file:/no/such'}]\n", "is not readable"),
    "key variable": ("admin_key: env:NO_SUCH_VARIABLE\n", "is not set"),
    "instance": ("instances: [{url: 'ftp://x'}]\n", "instances[0].url"),
    "open to the network": ("server: {host: 0.0.0.0}\n", "there are no api_keys"),
    "not ours": ("server: {host: 192.0.2.1, insecure: true}\n", "is not an address of this machine"),
    "unknown host": ("server: {host: no.such.host.invalid, insecure: true}\n", "is not known"),
    "record file": ("scheduling: {record_file: /proc/no/record}\n", "scheduling.record_file /proc/no/record"),
}


@pytest.mark.parametrize(("config", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_cannot_serve_ends_nothing(serving: Paths, config: str, says: str) -> None:
    before = info_of(serving)
    serving.config_file.write_text(config)
    try:
        assert_goes_on(serving, before, says)
    finally:
        serving.config_file.unlink()


INTERPRETERS = {
    "gone": ("", "No such file"),
    "fails": ("#!/bin/sh\necho cannot load libfoo >&2; exit 3\n", "cannot load libfoo"),
    "killed": ("#!/bin/sh\nkill -9 $$\n", "SIGKILL"),
    "without descriptors": (f'#!/bin/sh\nulimit -n 6; exec {sys.executable} "$@"\n', "not restarted: "),
}


@pytest.mark.parametrize(("script", "says"), INTERPRETERS.values(), ids=INTERPRETERS)
def test_an_interpreter_that_cannot_serve_ends_nothing(
    serving: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    program = tmp_path / "python"
    if script:
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    assert_goes_on(serving, info_of(serving), says)


def die_in_the_handover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Successors are killed when they hold the lock and the socket, and do not serve yet."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, socket\nsocket.recv_fds = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"], ids=["same address", "same port"])
def test_a_successor_that_dies_in_the_handover_ends_nothing(
    serving: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    die_in_the_handover(tmp_path, monkeypatch)
    serving.config_file.write_text(f"server: {{host: {host}, insecure: true}}\n")
    try:
        assert_goes_on(serving, info_of(serving), "SIGKILL")
    finally:
        serving.config_file.unlink()


SQUATTER = """
import os, signal, socket, time
receive = socket.recv_fds
def take_the_port_and_die(*args):
    receive(*args)  # the predecessor has released its port
    squatter = socket.create_server(("127.0.0.1", int(os.environ["TAKEN_PORT"])))
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    # The report must end with the successor, and the port stays taken.
    os.closerange(0, squatter.fileno())
    os.closerange(squatter.fileno() + 1, 1024)
    time.sleep(float(os.environ["TAKEN_S"]))
    os._exit(0)
socket.recv_fds = take_the_port_and_die
"""


@pytest.mark.parametrize("taken_s", [0.1, 0.8])
def test_a_restart_that_fails_returns_when_the_old_gateway_listens_again(
    serving: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_s: float
) -> None:
    """Of a new address with the same port: the old gateway releases the port, and gets it back later."""
    before = info_of(serving)
    (tmp_path / "sitecustomize.py").write_text(SQUATTER)
    for name, value in {"PYTHONPATH": tmp_path, "TAKEN_PORT": before.port, "TAKEN_S": taken_s}.items():
        monkeypatch.setenv(name, str(value))
    serving.config_file.write_text("server: {host: 0.0.0.0, insecure: true}\n")
    try:
        assert_goes_on(serving, before, "SIGKILL")
    finally:
        serving.config_file.unlink()


def test_a_new_port_that_is_taken_ends_nothing(paths: Paths) -> None:
    paths.config_file.write_text(f"server: {{port: {free_port()}}}\n")
    start_background(paths, Flags())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        paths.config_file.write_text(f"server: {{port: {port}}}\n")
        assert_goes_on(paths, info_of(paths), f"port {port} on 127.0.0.1 is taken by pid {os.getpid()}")


def test_another_listener_on_the_same_port_of_another_address_ends_nothing(serving: Paths) -> None:
    before = info_of(serving)
    serving.config_file.write_text("server: {host: 0.0.0.0, insecure: true}\n")
    try:
        with socket.create_server(("127.0.0.2", before.port)):
            assert_goes_on(serving, before, f"port {before.port} on 0.0.0.0 is taken")
    finally:
        serving.config_file.unlink()


def test_an_interrupted_restart_ends_nothing(
    serving: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = info_of(serving)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(KeyboardInterrupt):
        restart(serving, on_wait=lambda _: signal.raise_signal(signal.SIGINT))
    assert info_of(serving) == before
    assert control.inspect(serving).state == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_that_is_killed_leaves_one_gateway(serving: Paths, number: signal.Signals) -> None:
    home = serving.config_file.parent
    with subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", "restart"],
        env=clean_environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as command:
        assert command.stderr is not None
        command.stderr.readline()  # it waits, for some 300 ms by now
        command.send_signal(number)
    state = control.inspect(serving)
    assert state.state == "running"
    assert get(info_of(serving).port).startswith(b"HTTP/1.1 200")


def test_no_connection_is_refused_and_a_running_stream_is_finished(paths: Paths) -> None:
    go_on = threading.Event()

    def chunk(text: str) -> str:
        return f"{len(text):x}\r\n{text}\r\n"

    def slow(wire: Wire) -> None:
        wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        wire.send(chunk('data: {"a": 1}\n\n'))
        go_on.wait(60)
        wire.send(chunk("data: [DONE]\n\n") + "0\r\n\r\n")

    with RogueEngine(slow) as engine, ThreadPoolExecutor(2) as pool:
        before = start_background(paths, Flags(port=free_port(), llm_backends=(engine.url,)))
        port = info_of(paths).port
        body = b'{"model":"m","messages":[],"stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(
            body
        )
        stop = threading.Event()

        def knock() -> int:
            count = 0
            while not stop.is_set():
                assert get(port).startswith(b"HTTP/1.1 200")
                count += 1
                time.sleep(0.005)
            return count

        with socket.create_connection(("127.0.0.1", port), 60) as stream:
            stream.sendall(head + body)
            received = stream.recv(65536)
            while b"data:" not in received:
                received += stream.recv(65536)
            knocks = pool.submit(knock)
            restarting = pool.submit(restart, paths)
            try:
                deadline = time.monotonic() + 60
                while info_of(paths).pid == before.pid:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                assert control.inspect(paths).state == "running"
                assert Path(f"/proc/{before.pid}").exists()
            except BaseException:
                stop.set()
                raise
            finally:
                go_on.set()
            while piece := stream.recv(65536):
                received += piece
            assert b"[DONE]" in received
        ended = restarting.exception(60)
        stop.set()
        assert ended is None
        assert restarting.result().still_ending is None
        assert knocks.result(10) > 3


def test_two_restarts_at_once_leave_one_gateway(serving: Paths) -> None:
    before = info_of(serving)

    def one(_: int) -> int | str:
        try:
            return restart(serving).started.pid
        except DaemonError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, range(2)))
    now = info_of(serving)
    assert now.pid != before.pid
    assert now.pid in results
    assert get(now.port).startswith(b"HTTP/1.1 200")
    assert lock.look(serving.lock_file).holder == now.process
    for pid in results:
        assert pid == now.pid or isinstance(pid, str) or not Path(f"/proc/{pid}").exists()


def test_a_suspended_gateway_is_replaced_only_by_force(serving: Paths) -> None:
    before = info_of(serving)
    os.kill(before.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StopFailed, match="suspended"):
            restart(serving)
        assert info_of(serving) == before
        serving.config_file.write_text("server: {host: 192.0.2.1, insecure: true}\n")
        with pytest.raises(DaemonError, match="is not an address of this machine"):
            restart(serving, force=True)
        serving.config_file.unlink()
        assert info_of(serving) == before
    finally:
        os.kill(before.pid, signal.SIGCONT)
    os.kill(before.pid, signal.SIGSTOP)
    restarted = restart(serving, force=True)
    assert control.inspect(serving).pid == restarted.started.pid != before.pid


def test_a_new_gateway_that_fails_when_the_old_one_is_gone_comes_back_where_that_was(
    serving: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that hangs must be ended first. Its successor fails once, and then starts."""
    before = info_of(serving)
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\nif [ -e {tmp_path}/tried ]; then exec {sys.executable} "$@"; fi\n'
        f"touch {tmp_path}/tried; echo no luck >&2; exit 3\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    os.kill(before.pid, signal.SIGSTOP)
    with pytest.raises(DaemonError, match=r"no luck; it runs again at http://127\.0\.0\.1:\d+ \(pid \d+\)"):
        restart(serving, force=True)
    assert info_of(serving).port == before.port
    assert control.inspect(serving).state == "running"


def test_the_command_says_what_failed_and_what_runs(serving: Paths) -> None:
    home = serving.config_file.parent
    serving.config_file.write_text("server: {host: 192.0.2.1, insecure: true}\n")
    ended = sage(home, "restart", "--no-color")
    serving.config_file.unlink()
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: not restarted: 192.0.2.1 is not an address of this machine; choose another with --host or server.host; "
        f"pid {info_of(serving).pid} goes on as before"
    ]
    assert json.loads(sage(home, "status", "--json").stdout)["state"] == "running"


@pytest.mark.skipif(os.getuid() != 0, reason="needs a file system of its own")
def test_a_full_disk_is_no_obstacle(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(home)], check=False).returncode:
        pytest.skip("may not mount here")
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})
    try:
        start_background(paths, Flags(port=free_port()))
        with suppress(OSError), (home / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        restarted = restart(paths)
        assert control.inspect(paths).pid == restarted.started.pid
        control.stop(paths)
        assert control.inspect(paths).state == "stopped"
    finally:
        control.stop(paths, force=True)
        subprocess.run(["umount", "--lazy", str(home)], check=False)


def test_a_gateway_that_is_stopped_meanwhile_stays_stopped(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = start_background(paths, Flags(port=free_port())).pid
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nkill -TERM {pid}; exec {sys.executable} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(DaemonError, match="stopped meanwhile"):
        restart(paths)
    assert control.inspect(paths).state == "stopped"


def test_a_stopped_gateway_is_started(paths: Paths) -> None:
    paths.config_file.write_text(f"server: {{port: {free_port()}}}\n")
    assert restart(paths).started.pid == control.inspect(paths).pid


def test_a_gateway_that_systemd_started_is_left_to_it(paths: Paths) -> None:
    code = "import os, sys; os.environ['SYSTEMD_EXEC_PID'] = str(os.getpid()); os.execv(sys.executable, sys.argv[1:])"
    words = [sys.executable, "-m", "sage_inference", "inference", "start", "--port", str(free_port())]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=clean_environment(paths.config_file.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DaemonError, match="runs under a supervisor"):
            restart(paths)
        process.terminate()
