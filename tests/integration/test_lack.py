"""What this machine runs out of is nobody else's fault: engines stay in, callers are asked to come back."""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.daemon import admin, pidfile
from tests.support.gateway import Gateway, clean_environment, free_port, running_gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import CHAT, Caller, chat, post

EAGER = {"health": {"interval_s": 0.2}, "limits": {}}


def when_told(wire: Wire) -> None:
    """Answer once the test lets it."""
    wire.engine.go.wait(30)
    ok()(wire)


@contextlib.contextmanager
def crowd(port: int, number: int, request: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections, each of which has sent ``request``."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(number):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            socks.append(sock)
            with contextlib.suppress(OSError):
                sock.sendall(request)
        yield socks


def answers(socks: list[socket.socket], seconds: float) -> Counter[str]:
    """What each connection has got by then: a status, "503 later" with its Retry-After, "closed", or "nothing"."""
    received = dict.fromkeys(socks, b"")
    outcome = dict.fromkeys(socks, "nothing")
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, sock)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                sock = key.data
                try:
                    data = sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                received[sock] += data
                head = received[sock]
                if head:
                    later = " later" if b"\r\nretry-after: " in head else ""
                    outcome[sock] = head[9:12].decode() + later
                elif not data:
                    outcome[sock] = "closed"
                selector.unregister(sock)
    return Counter(outcome.values())


def status(gateway: Gateway) -> dict[str, object]:
    info = pidfile.read(gateway.paths.pid_file)
    assert info is not None
    code, document = admin.ask(info, "GET", "/admin/status")
    assert code == 200
    found: dict[str, object] = document
    return found


def states(gateway: Gateway) -> list[str]:
    instances = status(gateway)["instances"]
    assert isinstance(instances, list)
    return [one["state"] for one in instances]


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("most", [48, 100])
def test_more_callers_than_descriptors_get_503_and_both_engines_stay_in(most: int) -> None:
    with RogueEngine(when_told) as one, RogueEngine(when_told) as other:
        with running_gateway(one.url, other.url, config=EAGER, open_files=most) as gateway:
            with crowd(gateway.port, 150, post(CHAT, chat())) as callers:
                assert states(gateway) == ["ready", "ready"]
                one.go.set()
                other.go.set()
                got = answers(callers, 10)
                assert states(gateway) == ["ready", "ready"]
            assert set(got) == {"200", "503 later"}, got
            assert got["200"] >= (most - 40) // 2
            assert f"a limit of {most} open files" in gateway.log()
            assert "LimitNOFILE" in gateway.log()
            assert "ejected" not in gateway.log()
            assert "Traceback" not in gateway.log()
            with Caller(gateway.port) as late:
                assert late.chat().reply().status == 200


def test_idle_callers_make_room_for_those_who_ask() -> None:
    # 12 callers at work take 24 files, the gateway 21; a newer libffi keeps one more open.
    with RogueEngine(when_told) as engine:
        with running_gateway(engine.url, config=EAGER, open_files=62) as gateway:
            with crowd(gateway.port, 25) as idle:
                time.sleep(0.5)  # idle for so long that no request can be on its way
                with crowd(gateway.port, 12, post(CHAT, chat())) as callers:
                    engine.go.set()
                    assert answers(callers, 10) == {"200": 12}
                assert states(gateway) == ["ready"]
                assert answers(idle, 0.5)["503 later"] > 0
            assert "ejected" not in gateway.log()


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"], ids=["idle", "slow"]
)
def test_status_answers_while_silent_callers_take_all_they_can(sent: bytes) -> None:
    with RogueEngine(ok()) as engine:
        with running_gateway(engine.url, config=EAGER, open_files=64) as gateway:
            with crowd(gateway.port, 150, sent):
                began = cpu_s(gateway.process.pid), time.monotonic()
                for _ in range(3):
                    assert states(gateway) == ["ready"]
                    time.sleep(0.3)
                spent = cpu_s(gateway.process.pid) - began[0]
                assert spent < 0.5 * (time.monotonic() - began[1]) + 0.3
                assert "Traceback" not in gateway.log()
            with Caller(gateway.port) as late:
                assert late.chat().reply().status == 200


def test_a_limit_lowered_while_it_runs_ejects_nobody() -> None:
    with RogueEngine(ok()) as one, RogueEngine(ok()) as other:
        with running_gateway(one.url, other.url, config=EAGER) as gateway:
            _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (8, hard))  # none can be opened
            time.sleep(0.6)  # several probes
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert states(gateway) == ["ready", "ready"]
            assert "ejected" not in gateway.log()
            assert "was not asked: the limit of 8 open files is reached" in gateway.log()


def test_a_limit_too_low_for_any_caller_is_one_clear_line(tmp_path: Path) -> None:
    command = "ulimit -n 16; exec " + shlex.join(
        [sys.executable, "-m", "sage_inference", "inference", "start", "--port", str(free_port())]
    )
    ended = subprocess.run(
        ["sh", "-c", command],
        env=clean_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "error: the limit of 16 open files is too low" in ended.stderr
    assert "LimitNOFILE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_embeddings_and_streams_are_503_too_where_no_connection_can_be_made() -> None:
    def stream(wire: Wire) -> None:
        wire.send(sse('{"choices":[]}'))
        wire.engine.go.wait(30)
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    embed = post("/v1/embeddings", json.dumps({"model": "m", "input": "x"}).encode())
    with RogueEngine(stream) as engine:
        with running_gateway(engine.url, config=EAGER, open_files=60) as gateway:
            with crowd(gateway.port, 60, post(CHAT, chat(stream=True))) as streams, Caller(gateway.port):
                with crowd(gateway.port, 5, embed) as embedders:
                    assert answers(embedders, 5) == {"503 later": 5}
                got = answers(streams, 5)
                assert set(got) == {"200", "503 later"}
                assert states(gateway) == ["ready"]
                engine.go.set()
            assert "ejected" not in gateway.log()
