"""Well-formed messages, from which the broken ones are made."""

from __future__ import annotations

from tests.fuzz.codings import CODINGS

_CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
_GZIPPED = CODINGS["gzip"][1](_CHAT)
_EMBED = b'{"model":"m","input":"hi"}'


def _post(path: bytes, body: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    lines = (b"POST %b %b" % (path, version), b"Host: localhost", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _chunked_post(*chunks: bytes, trailer: bytes = b"") -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def _coded(name: str, *headers: bytes, body: bytes = _CHAT) -> bytes:
    header, encode = CODINGS.get(name, CODINGS["gzip"])
    return _post(b"/v1/chat/completions", encode(body), b"Content-Encoding: " + header.encode(), *headers)


CHAT = _post(b"/v1/chat/completions", _CHAT, b"Content-Type: application/json")
_MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"

REQUESTS = (
    CHAT,
    CHAT + CHAT,
    CHAT + _MODELS + CHAT,
    _MODELS,
    _post(b"/v1/embeddings?x=1", _EMBED, b"x-custom: a", b"X-Request-Id: mine"),
    _post(b"http://localhost/v1/chat/completions", _CHAT),
    _post(b"/v1/chat/completions", _CHAT, version=b"HTTP/1.0"),
    _post(b"/v1/chat/completions", _CHAT, b"Connection: close") + CHAT,
    _post(b"/v1/chat/completions", _CHAT, b"Connection: keep-alive, x-hop", b"x-hop: 1", b"TE: trailers"),
    _post(b"/v1/chat/completions", _CHAT, b"Expect: 100-continue") + CHAT,
    _post(b"/v1/chat/completions", _CHAT, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    _chunked_post(b"%x\r\n%b\r\n" % (len(_CHAT), _CHAT)),
    _chunked_post(b"5;a=b\r\n%b\r\n" % _CHAT[:5], b"%X\r\n%b\r\n" % (len(_CHAT) - 5, _CHAT[5:])) + CHAT,
    _chunked_post(b"%x\r\n%b\r\n" % (len(_CHAT), _CHAT), trailer=b"x-trailer: 1\r\n") + _MODELS,
    b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + CHAT,
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n" + _MODELS,
    b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n" + CHAT,
    _coded("gzip"),
    _coded("members", body=_CHAT + b" " * 500) + CHAT,
    _coded("raw deflate", b"Expect: 100-continue") + _coded("deflate"),
    _coded("zstd", b"Connection: close"),
    _coded("frames", body=_CHAT + b" " * 500) + _coded("stored"),
    _coded("gzip in gzip") + _MODELS,
    _coded("empty blocks", body=_CHAT + b" " * 2000),
    _coded("cut") + CHAT + _coded("gzip", body=b""),
    _coded("foreign") + CHAT,
    _coded("gzip", body=_CHAT + b" " * 200_000) + CHAT,
    _coded("identity") + CHAT,
    _chunked_post(
        b"%x\r\n%b\r\n" % (len(_GZIPPED) - 9, _GZIPPED[:-9]), b"9\r\n%b\r\n" % _GZIPPED[-9:]
    ).replace(b"Host", b"Content-Encoding: gzip\r\nHost")
    + CHAT,
    _post(b"/v1/chat/completions", b'{"messages":[]}') + _post(b"/tokenize", b'{"prompt":"x"}'),
)


def _answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = (
        b"HTTP/1.1 " + status,
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _chunked(*pieces: bytes, kind: bytes = b"application/json", trailer: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailer + b"\r\n"


ANSWERS = (
    _answer(b'{"choices":[]}'),
    _answer(b"", status=b"204 No Content").replace(b"Content-Length: 0\r\n", b""),
    _answer(b'{"error":"busy"}', b"Retry-After: 3", status=b"429 Too Many Requests"),
    _answer(b'{"error":"no"}', status=b"400 Bad Request"),
    _answer(b'{"error":"oops"}', status=b"500 Internal Server Error"),
    _answer(b'{"a":1}', b"Connection: close"),
    _answer(b'{"a":1}', b"Connection: keep-alive, x-hop", b"x-hop: 1", b"Keep-Alive: timeout=5"),
    _answer(b'{"a":1}').replace(b"HTTP/1.1", b"HTTP/1.0"),
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + _answer(b'{"a":1}'),
    b"HTTP/1.1 100 Continue\r\n\r\n" + _chunked(b'{"a":1}'),
    _chunked(b'{"a":', b"1}"),
    _chunked(b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n", kind=b"text/event-stream"),
    _chunked(b"data: one\n\n", b"data: [DONE]\n\n", kind=b"text/event-stream", trailer=b"x-trailer: 1\r\n"),
    _chunked(b"x" * 40).replace(b"28\r\n", b"28;ext=1\r\n"),
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
)
