"""``python -m tests.bench.pipelining.flood PORT CONNECTIONS reading|deaf``: sends until it is ended."""

from __future__ import annotations

import socket
import sys
import threading

_HOST = b"Host: localhost\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + _HOST + b"\r\n"


def _post(body: bytes) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (_HOST, len(body), body)


CHAT = _post(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
REFUSED = _post(b'{"model":"m"}')
MIXES = (LIVE * 2000, CHAT * 500, (LIVE + CHAT) * 500, REFUSED * 500)


def main(port: int, connections: int, reading: bool) -> None:
    for number in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        if reading:
            threading.Thread(target=_read, args=(sock,), daemon=True).start()
        threading.Thread(target=_send, args=(sock, MIXES[number % len(MIXES)]), daemon=True).start()
    threading.Event().wait()


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        while True:
            sock.sendall(data)
    except OSError:
        return


def _read(sock: socket.socket) -> None:
    while sock.recv(1 << 18):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "reading")
