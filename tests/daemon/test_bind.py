"""The listening socket, or one clear line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sage_inference.daemon.bind import bind
from sage_inference.daemon.errors import BindError, PortTaken

LISTEN = """
import socket, sys
sock = socket.create_server((sys.argv[1], 0))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "::1", "[::1]", "::"])
def test_it_listens(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    with bind(host, 0) as sock:
        assert not sock.getblocking()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        to = "::1" if ":" in host else "127.0.0.1"
        with socket.socket(family) as caller:
            caller.connect((to, port_of(sock)))


@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_names_pid_and_program(listening: str) -> None:
    command = [sys.executable, "-c", LISTEN, listening]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(PortTaken) as taken:
            bind("127.0.0.1", port)
        program = psutil.Process(holder.pid).name()
        holder.kill()
    assert str(taken.value) == (
        f"port {port} on 127.0.0.1 is taken by pid {holder.pid} ({program}); choose another with --port or server.port"
    )


def test_two_of_us_cannot_have_one_port() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(PortTaken):
        bind("127.0.0.1", port_of(first))


def test_the_port_of_a_run_that_just_ended_can_be_taken() -> None:
    with bind("127.0.0.1", 0) as first:
        port = port_of(first)
        caller = socket.create_connection(("127.0.0.1", port))
        first.setblocking(True)
        answered, _ = first.accept()
        answered.close()  # the side that closes first is left in TIME_WAIT
        assert caller.recv(1) == b""
        caller.close()
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("no.such.host.invalid", "host 'no.such.host.invalid' is not known"),
        (
            "192.0.2.1",
            "192.0.2.1 is not an address of this machine; choose another with --host or server.host",
        ),
        ("a" * 300, "is not known"),
        ("1.2.3.4.5", "is not known"),
    ],
    ids=["unknown", "not ours", "too long", "malformed"],
)
def test_a_bad_host_is_explained(host: str, says: str) -> None:
    with pytest.raises(BindError) as error:
        bind(host, 8000)
    assert says in str(error.value)
    assert "--host" in str(error.value)


@pytest.mark.skipif(
    os.geteuid() == 0
    or not Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").exists()
    or int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80,
    reason="this user may take privileged ports",
)
def test_a_privileged_port_is_explained() -> None:
    with pytest.raises(BindError, match=r"port 80 on 127\.0\.0\.1 is for privileged programs"):
        bind("127.0.0.1", 80)
