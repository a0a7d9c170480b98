"""What a supervisor hears on its socket."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory(prefix="sage-") as directory:
        name = f"{directory}/notify"
        address = name if request.param == "path" else "@" + name
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(name if request.param == "path" else "\0" + name)
            sock.setblocking(False)
            yield sock, address


def heard(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_readiness_reload_and_stop(supervisor: tuple[socket.socket, str]) -> None:
    sock, address = supervisor
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    notifier.ready("serving on\nhttp://127.0.0.1:8000")
    assert heard(sock) == ["READY=1", "STATUS=serving on http://127.0.0.1:8000"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    word, stamp, _ = heard(sock)
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert heard(sock) == ["STOPPING=1"]


def test_signs_of_life_come_by_half_the_watchdog_time(supervisor: tuple[socket.socket, str]) -> None:
    sock, address = supervisor
    now = 0.0
    notifier = Notifier(address, 30.0, clock=lambda: now)
    sent: list[float] = []
    for second in range(1, 61):
        now = float(second)
        notifier.watchdog()
        try:
            assert heard(sock) == ["WATCHDOG=1"]
            sent.append(now)
        except BlockingIOError:
            continue
    assert sent == [15.0, 30.0, 45.0, 60.0]


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
    ids=["other pid", "zero", "negative", "no number", "none"],
)
def test_no_watchdog_that_is_not_ours(supervisor: tuple[socket.socket, str], environ: dict[str, str]) -> None:
    sock, address = supervisor
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address, **environ})
    notifier.watchdog()
    with pytest.raises(BlockingIOError):
        sock.recv(10)


def test_a_watchdog_of_ours_is_fed(supervisor: tuple[socket.socket, str]) -> None:
    sock, address = supervisor
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    Notifier.from_environ(environ).watchdog()
    assert heard(sock) == ["WATCHDOG=1"]
    assert environ == {}, "engines must not speak in our name"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "/no/such/socket", "@nobody", "/" + "x" * 300, "vsock:1"]
)
def test_without_a_supervisor_nothing_happens(address: str | None) -> None:
    notifier = Notifier.from_environ({} if address is None else {"NOTIFY_SOCKET": address})
    notifier.ready("status")
    notifier.stopping()


def test_a_supervisor_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="sage-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{directory}/notify")
        notifier = Notifier(f"{directory}/notify")
        for _ in range(2000):
            notifier.ready()
