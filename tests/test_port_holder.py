"""The process that holds a port, as a sentence about a failed start names it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from sage_inference.port_holder import PortHolder, port_holder

HOLD = """
import socket, sys
kind, host = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family)
sock.bind((host, 0))
if kind == "listen":
    sock.listen()
if kind == "connected":
    server = socket.create_server(("127.0.0.1", 0))
    sock.connect(server.getsockname())
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(kind: str, host: str = "127.0.0.1") -> Iterator[tuple[int, int]]:
    """The pid of a process that holds a port, and the port."""
    command = [sys.executable, "-S", "-c", HOLD, kind, host]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("kind", "host"),
    [("listen", "127.0.0.1"), ("listen", "0.0.0.0"), ("listen", "127.0.0.2"), ("connected", "127.0.0.1")],
)
def test_the_holder_is_named_and_how_to_end_it(kind: str, host: str) -> None:
    with holding(kind, host) as (pid, port):
        holder = port_holder(port)
        process = psutil.Process(pid)
        assert holder == PortHolder(pid, process.name(), process.username())
        assert holder.words == f"pid {pid} ({process.name()}, user {process.username()})"
        assert holder.remedy(port) == f"kill {pid} ends it"


def test_a_listener_at_the_address_in_question_comes_first() -> None:
    with socket.create_server(("127.0.0.3", 0)) as other:
        port = other.getsockname()[1]
        with socket.create_server(("127.0.0.4", port)), socket.create_connection(("127.0.0.3", port)):
            found = port_holder(port, "127.0.0.4")
    assert found is not None
    assert found.pid == os.getpid()


@pytest.mark.parametrize("kind", ["free", "bound"])
def test_a_port_without_a_visible_socket_has_no_holder(kind: str) -> None:
    with holding("bound") as (_, port):
        if kind == "bound":
            assert port_holder(port) is None, "Linux lists no socket before it listens"
            return
    assert port_holder(port) is None


@pytest.mark.parametrize(
    ("holder", "words", "remedy"),
    [
        (PortHolder(7), "pid 7", "kill 7 ends it"),
        (PortHolder(7, "python3"), "pid 7 (python3)", "kill 7 ends it"),
        (PortHolder(7, None, "bob", is_ours=False), "pid 7 (user bob)", "sudo kill 7 ends it"),
        (
            PortHolder(None, is_ours=False),
            "a program of another user",
            "sudo ss -tlnp 'sport = :8000' shows it",
        ),
    ],
)
def test_what_is_not_known_of_a_holder_is_left_out(holder: PortHolder, words: str, remedy: str) -> None:
    assert holder.words == words
    assert sys.platform != "linux" or holder.remedy(8000) == remedy
