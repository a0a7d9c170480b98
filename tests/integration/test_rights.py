"""Nobody is admin unasked: another user of the machine, a reverse proxy on it, a page in its browser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sage_inference.cli.status import document
from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import control, presence
from sage_inference.daemon.directories import ensure
from sage_inference.daemon.handover import NoHandoverError, Takeover
from sage_inference.daemon.predecessor import Predecessor
from sage_inference.daemon.spawn import start_background
from tests.support.gateway import Gateway, clean_environment, free_port, running_gateway
from tests.support.nginx import AS_INSTALLED, NGINX, nginx
from tests.support.other_user import NOBODY, as_nobody
from tests.support.wire import Caller

ONLY_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
KEY = "callers-key"
EVIL = b'{"url": "http://127.0.0.1:9", "name": "evil", "kind": "llm"}'
TRIES = [
    ("GET", "/admin/status", b""),
    ("GET", "/admin/instances", b""),
    ("POST", "/admin/instances", EVIL),
    ("POST", "/admin/instances/e/drain", b""),
    ("DELETE", "/admin/instances/e", b""),
    ("PUT", "/admin/policy", b'{"policy": "random"}'),
    ("POST", "/admin/reload", b""),
    ("GET", "/admin/decisions/r", b""),
    ("GET", "/%61dmin/status", b""),
]


def ask(port: int, method: str, path: str, body: bytes, *headers: str, host: str = "localhost") -> int:
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *headers]
    with Caller(port) as caller:
        return caller.send("\r\n".join([*lines, "", ""]).encode() + body).reply().status


def statuses(port: int, *headers: str, host: str = "localhost") -> set[int]:
    return {ask(port, method, path, body, *headers, host=host) for method, path, body in TRIES}


def _statuses_as_json(port: int, headers: list[str]) -> list[int]:
    return list(statuses(port, *headers))


def untouched(gateway: Gateway) -> bool:
    with gateway.client(headers=gateway.admin) as client:
        status = client.get("/admin/status").raise_for_status().json()
    return [one["name"] for one in status["instances"]] == ["e"] and status["policy"] == "hybrid"


@contextlib.contextmanager
def guarded_gateway(*args: str) -> Iterator[Gateway]:
    config = {"instances": [{"url": "http://127.0.0.1:9", "name": "e"}]}
    with running_gateway(config=config, args=args, await_instances=False) as gateway:
        yield gateway


@pytest.fixture(scope="module", params=[(), ("--host", "0.0.0.0", "--api-key", KEY)], ids=["open", "public"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with guarded_gateway(*request.param) as found:
        yield found


@ONLY_ROOT
def test_another_user_of_the_machine_is_no_admin(gateway: Gateway) -> None:
    for headers, seen in (
        ([], [401]),
        (["x-forwarded-for: 127.0.0.1"], [401]),
        (["authorization: Basic cm9vdDpyb290"], [401]),
        ([f"authorization: Bearer {KEY}"], [403]),
        ([f"x-api-key: {KEY}"], [403]),
    ):
        assert as_nobody(partial(_statuses_as_json, gateway.port, headers)) == seen, headers
    assert untouched(gateway)


@ONLY_ROOT
def test_another_user_cannot_read_the_token_and_gets_a_sane_status(gateway: Gateway) -> None:
    mode = stat.S_IMODE(gateway.paths.pid_file.stat().st_mode)
    assert mode == 0o600

    def asked() -> object:
        state = control.inspect(gateway.paths)
        return [state.exit_code, document(state)]

    asked()  # imports what it needs
    for opened in (gateway.home, gateway.paths.state_dir):  # as far as an admin might open them by mistake
        exit_code, told = as_nobody(asked)
        assert (exit_code, told["state"], told["instances"]) == (4, "unknown", None)
        assert "ask as the user who runs the gateway" in told["reason"]
        opened.chmod(0o755)
    gateway.paths.lock_file.chmod(0o644)
    exit_code, told = as_nobody(asked)
    assert (exit_code, told["state"]) == (4, "unknown")
    assert str(gateway.paths.pid_file) in told["reason"]


@ONLY_ROOT
def test_another_user_is_not_passed_the_gateways_place(gateway: Gateway) -> None:
    """Whoever gets its listening socket reads every prompt."""

    def asked() -> list[object]:
        connection = presence.connect(gateway.paths.state_dir)
        assert connection is not None
        with connection:
            connection.settimeout(20)
            try:
                connection.sendall(b'{"take": "socket"}\n')
                raw, descriptors, _, _ = socket.recv_fds(connection, 4096, 3)
            except (BrokenPipeError, ConnectionResetError):  # it may have closed before or after we sent
                return ["", 0]
            return [raw.decode(), len(descriptors)]

    presence.connect(gateway.home)  # imports what it needs
    # The folders are open: their path is all that the name is made of, and others may know it.
    for folder in (gateway.home, gateway.paths.state_dir):
        folder.chmod(0o755)
    assert as_nobody(asked) == ["", 0]
    assert untouched(gateway)


@contextlib.contextmanager
def squatted(folder: Path) -> Iterator[int]:
    """Another user's process has taken the name of the gateway whose files lie in ``folder``."""
    presence.connect(folder)  # imports what the other user needs
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        held = presence.Presence.take(folder)
        os.write(writer, b"!" if held else b"?")
        signal.pause()
        os._exit(0)
    assert os.read(reader, 1) == b"!"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@ONLY_ROOT
def test_another_user_who_takes_the_gateways_name_holds_up_nothing(tmp_path: Path) -> None:
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    ensure(paths)
    with squatted(paths.state_dir) as squatter:
        assert control.inspect(paths).state == "stopped"
        started = start_background(paths, Flags(port=free_port()))
        assert control.inspect(paths).pid == started.pid
        info = control.running(paths)
        takeover = Takeover(Predecessor(info.process, info.host, info.port), paths.state_dir, lambda: None)
        takeover.bind(info.host, info.port)
        with pytest.raises(NoHandoverError):  # then restart stops the old one first
            takeover.listen()
        assert control.stop(paths).pid == started.pid
        assert control.stop(paths).result == "not_running"
        assert os.waitpid(squatter, os.WNOHANG) == (0, 0)


def test_the_command_prints_what_admin_asks_for(gateway: Gateway) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sage_inference", "inference", "admin-header"],
        env=clean_environment(gateway.home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ask(gateway.port, "GET", "/admin/status", b"", shown.stdout.strip()) == 200
    assert control.inspect(gateway.paths).state == "running"
    assert control.reload(gateway.paths).added == ()
    assert ask(gateway.port, "GET", "/admin/status", b"", shown.stdout.strip()) == 200
    assert shown.stdout.split()[-1] not in gateway.log()


def test_a_rebinding_page_gets_nothing(gateway: Gateway) -> None:
    token = f"authorization: {gateway.admin['authorization']}"
    for host in ("evil.example", f"evil.example:{gateway.port}", "localhost.evil.example"):
        for headers in ([], ["sec-fetch-site: same-origin"], [f"x-api-key: {KEY}"], [token]):
            assert statuses(gateway.port, *headers, host=host) == {403}, (host, headers)
    for origin in ("null", "http://evil.example", f"http://localhost:{gateway.port}"):
        assert statuses(gateway.port, token, f"origin: {origin}") == {403}
    assert untouched(gateway)


# Through Debian's nginx as installed


WAYS = {
    "plain": AS_INSTALLED,
    "1.1": AS_INSTALLED + "proxy_http_version 1.1;",
    "as localhost": AS_INSTALLED + "proxy_http_version 1.1; proxy_set_header Host localhost;",
    "headers taken off": AS_INSTALLED
    + "proxy_set_header Host localhost; proxy_set_header X-Forwarded-For '';",
}


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
@pytest.mark.parametrize("way", WAYS)
def test_a_reverse_proxy_makes_nobody_an_admin(gateway: Gateway, tmp_path: Path, way: str) -> None:
    with nginx(tmp_path, gateway.port, WAYS[way]) as port:
        assert ask(port, "GET", "/health/live", b"") == 200
        assert statuses(port) == {401}
        assert statuses(port, "x-forwarded-for: 127.0.0.1", "host: 127.0.0.1") <= {400, 401}
        assert statuses(port, f"authorization: Bearer {KEY}") == {403}
        token = f"authorization: {gateway.admin['authorization']}"
        assert ask(port, "GET", "/admin/status", b"", token) == 200
    assert untouched(gateway)
