"""The engine that misbehaves on purpose, where it is to behave."""

from __future__ import annotations

import socket
import time

from tests.support.rogue import RogueEngine, ok
from tests.support.wire import chat, post


def test_a_well_behaved_answer_is_one_write() -> None:
    """A second small write would wait 40 ms for the peer's acknowledgement of the first."""
    with RogueEngine(ok('{"a":1}')) as engine, socket.create_connection(("127.0.0.1", engine.port)) as sock:
        sock.settimeout(10)
        for at in range(5):
            sock.sendall(post("/v1/chat/completions", chat(number=at)))
            engine.arrived.get(timeout=10)
            assert sock.recv(65536).endswith(b'\r\n\r\n{"a":1}')


def test_answers_on_one_connection_cost_no_delay() -> None:
    with RogueEngine(ok()) as engine, socket.create_connection(("127.0.0.1", engine.port)) as sock:
        took = []
        for _ in range(10):
            began = time.monotonic()
            sock.sendall(post("/v1/chat/completions", chat()))
            data = b""
            while not data.endswith(b'{"ok":true}'):
                data += sock.recv(65536)
            took.append(time.monotonic() - began)
        assert min(took[2:]) < 0.03
