"""Requests that run through a restart are finished or cut off, and counted: in the command's output and in the log."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sage_inference.config.paths import Paths
from sage_inference.daemon import control, pidfile
from sage_inference.daemon.end_report import EndListeners, EndReport, EndReportAwaited
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port
from tests.support.rogue import RogueEngine, Wire, sse
from tests.support.wire import CHAT, Caller, chat, post


def streams_until(wire: Wire) -> None:
    wire.send(sse('{"choices": [{"index": 0, "delta": {"content": "a"}}]}'))
    if b'"finished"' in wire.body:
        wire.engine.go.wait(30)
        wire.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    else:
        wire.wait_for_peer_to_leave()


def test_streams_that_a_restart_finishes_and_cuts_are_counted_and_named(tmp_path: Path) -> None:
    paths = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)})
    with RogueEngine(streams_until) as engine:
        port = free_port()
        document = {
            "server": {"port": port},
            "instances": [{"url": engine.url}],
            "timeouts": {"drain_s": 1},
        }
        (tmp_path / "config.yaml").write_text(json.dumps(document))
        try:
            assert sage(tmp_path, "start", "--background").returncode == 0
            with Caller(port) as finished, Caller(port) as cut, Caller(port) as left:
                for caller, user in ((finished, "finished"), (cut, "cut"), (left, "left")):
                    caller.send(post(CHAT, chat(stream=user != "left", user=user)))
                    engine.arrived.get(timeout=10)
                restarted = restart_under(paths, engine, left)
                assert b"[DONE]" in finished.rest()
                last_words = cut.rest()
        finally:
            control.stop(paths, force=True)
    assert b'"error"' in last_words
    assert b"[DONE]" not in last_words
    assert (
        "warning: of the 3 requests that were running (streams: 2), the old gateway finished 1; " in restarted
    )
    assert "failed or cut off: 1, of them streams: 1\n" in restarted
    assert (
        "requests under way at the stop: 3 (streams: 2); finished: 1, failed or cut off: 1 (streams: 1), "
        'left by their callers: 1"'
    ) in paths.log_file.read_text()


def restart_under(paths: Paths, engine: RogueEngine, left: Caller) -> str:
    """The output of ``restart``. When the old gateway is relieved, one stream ends and one caller leaves."""
    before = pidfile.read(paths.pid_file)
    assert before is not None
    with subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", "restart"],
        env=clean_environment(paths.config_file.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert control.wait_until(
            lambda: (now := pidfile.read(paths.pid_file)) is not None and now.pid != before.pid, 30, None
        )
        engine.go.set()
        left.sock.close()
        shown, _ = process.communicate(timeout=30)
    assert process.returncode == 0, shown
    return shown


@pytest.fixture
def awaited() -> tuple[EndListeners, EndReportAwaited, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    listeners = EndListeners()
    listeners.add(ours)
    return listeners, EndReportAwaited(theirs), ours


def test_a_report_is_read_after_the_gateways_end(
    awaited: tuple[EndListeners, EndReportAwaited, socket.socket],
) -> None:
    listeners, report, _ = awaited
    listeners.report({"finished": 2, "failed": 1, "left": 0, "streams": 3, "failed_streams": 1})
    assert report.read() == EndReport(2, 1, 0, 3, 1)


@pytest.mark.parametrize("sent", [b"", b"garbage", b"[]", b'{"finished": 1}', b'{"finished": null}'])
def test_a_gateway_that_is_killed_or_of_another_version_reports_nothing(
    awaited: tuple[EndListeners, EndReportAwaited, socket.socket], sent: bytes
) -> None:
    _, report, connection = awaited
    connection.sendall(sent)
    connection.close()
    assert report.read() is None


def test_restarts_that_were_given_up_leave_no_connections() -> None:
    listeners = EndListeners()
    for _ in range(3):
        ours, theirs = socket.socketpair()
        theirs.close()
        listeners.add(ours)
    assert ours.fileno() != -1
    last, waits = socket.socketpair()
    listeners.add(last)
    assert ours.fileno() == -1
    listeners.report({"finished": 0})
    assert waits.recv(100) == b'{"finished": 0}\n'
    waits.close()
