"""Sends requests to the running gateway's HTTP port.

The module uses a bare socket, because the import of http.client costs ``status`` 18 ms, more than the whole exchange.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from sage_inference.daemon.pidfile import PidInfo
from sage_inference.netloc import netloc, reachable

_LARGEST = 1 << 24


def ask(
    info: PidInfo, method: str, path: str, body: Any = None, *, timeout_s: float = 2.0
) -> tuple[int, Any]:
    """Status and decoded JSON of the response, within ``timeout_s``.

    Raises ``OSError`` if none comes in time, ``ValueError`` if it is not HTTP with JSON.
    """
    deadline = time.monotonic() + timeout_s
    host = reachable(info.host)
    with socket.create_connection((host, info.port), timeout_s) as sock:
        _arm(sock, deadline)
        sock.sendall(_request(host, info, method, path, body))
        return _parse(_receive(sock, deadline))


def _request(host: str, info: PidInfo, method: str, path: str, body: Any) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        f"host: {netloc(host, info.port)}",
        f"authorization: Bearer {info.admin_token}",
        f"content-length: {len(content)}",
        "content-type: application/json",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def _receive(sock: socket.socket, deadline: float) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        _arm(sock, deadline)
        try:
            piece = sock.recv(65536)
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise ValueError("the answer has no end")


def _arm(sock: socket.socket, deadline: float) -> None:
    # Bytes that have arrived are read even after the time is up, because this process may have been suspended.
    sock.settimeout(max(0.0, deadline - time.monotonic()))


def _parse(raw: bytes) -> tuple[int, Any]:
    head, found, content = raw.partition(b"\r\n\r\n")
    start, *headers = head.split(b"\r\n")
    words = start.split(b" ", 2)
    if not found or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(content):
            raise ValueError("the answer is cut")
    return int(words[1]), json.loads(content)
