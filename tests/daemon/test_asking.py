"""Asking the running gateway from a command, whose own absence must not look like the gateway's silence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

ASKER = """
import sys, time
from types import SimpleNamespace
from sage_inference.daemon import admin
info = SimpleNamespace(host="127.0.0.1", port=int(sys.argv[1]), admin_token="t", certificate=None)
try:
    print(admin.ask(info, "GET", "/admin/status", timeout_s=float(sys.argv[2])))
except OSError as error:
    print(type(error).__name__)
"""
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}'


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        ([ANSWER], "(200, {'a': 1})"),
        ([ANSWER[:20], ANSWER[20:]], "(200, {'a': 1})"),
        ([ANSWER[:20]], "TimeoutError"),
    ],
    ids=["whole", "in pieces", "half"],
)
def test_an_answer_that_arrived_while_the_command_was_suspended_counts(
    sent: list[bytes], printed: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asker = subprocess.Popen(
            [sys.executable, "-c", ASKER, str(server.getsockname()[1]), "0.5"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                asker.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, asker.pid, os.WSTOPPED | os.WNOWAIT)
                for piece in sent:
                    connection.sendall(piece)
                if b"".join(sent) == ANSWER:
                    connection.shutdown(socket.SHUT_WR)
                time.sleep(0.7)  # over the time that it waits
                asker.send_signal(signal.SIGCONT)
                assert asker.communicate(timeout=20)[0].strip() == printed
        finally:
            asker.kill()
            asker.wait()
