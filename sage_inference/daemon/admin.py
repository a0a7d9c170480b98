"""Sends requests to the running gateway's HTTP port.

The module uses a bare socket, because the import of http.client costs ``status`` 18 ms, more than the whole exchange.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage_inference.daemon.pidfile import PidInfo, read_of
from sage_inference.netloc import netloc, reachable

if TYPE_CHECKING:
    import ssl

_LARGEST = 1 << 24


def ask(
    info: PidInfo, method: str, path: str, body: Any = None, *, timeout_s: float = 2.0
) -> tuple[int, Any]:
    """Status and decoded JSON of the response, within ``timeout_s``.

    Raises ``OSError`` if none comes in time, ``ValueError`` if it is not HTTP with JSON.
    """
    deadline = time.monotonic() + timeout_s
    with connect(info, timeout_s) as sock:
        _arm(sock, deadline)
        sock.sendall(_request(info, method, path, body))
        return _parse(_receive(sock, deadline))


def connect(info: PidInfo, timeout_s: float) -> socket.socket:
    """A connection to the gateway, with TLS if it speaks HTTPS. Raises ``OSError``.

    ``WrongCertificateError`` is raised before anything was sent, if another program answers at its port.
    """
    host = reachable(info.host).encode()  # for a text, Python would load the tables of international names
    sock = socket.create_connection((host, info.port), timeout_s)  # type: ignore[arg-type]
    if info.certificate is None:
        return sock
    try:
        return tls_of(info).wrap_socket(sock)
    except BaseException:
        sock.close()
        raise


def tls_of(info: PidInfo, now: Callable[[], PidInfo | None] | None = None) -> ssl.SSLContext:
    """The context of connections to a gateway that speaks HTTPS. The gateway is known by its certificate.

    ``now`` returns its present state. A context that is used for long needs it.
    """
    from sage_inference import pinning  # imports ``ssl``, which commands need for such a gateway only

    def accepts(found: str) -> bool:
        if found == info.certificate:
            return True
        # It may have been renewed since ``info`` was read. The gateway notes a new one before it shows it.
        present = read_of(info.process) if now is None else now()
        return present is not None and found == present.certificate

    return pinning.context(accepts)


def _request(info: PidInfo, method: str, path: str, body: Any) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        f"host: {netloc(reachable(info.host), info.port)}",
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
