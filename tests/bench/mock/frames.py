"""The bytes of a streamed answer, in vLLM's wire format; both sides make them, to compare every one."""

from __future__ import annotations

import re

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 20:49:41 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_BEFORE = (
    b'data: {"id":"chatcmpl-83b7477d8eb65b07","object":"chat.completion.chunk","created":1795466982,'
    b'"model":"mock-stream","choices":[{"index":0,"delta":'
)
_AFTER = b',"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
LAST = (
    _BEFORE
    + b'{"content":""},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]}\n\n'
    + b"data: [DONE]\n\n"
)
STAMP = re.compile(rb'"content":"(\d{19})"')


def first(text: bytes) -> bytes:
    return _BEFORE + b'{"role":"assistant","content":"%b"}' % text + _AFTER


def chunk(text: bytes) -> bytes:
    return _BEFORE + b'{"content":"%b"}' % text + _AFTER


def stamp(now_ns: int) -> bytes:
    return b"%019d" % now_ns


def numbered(tag: str, number: int) -> bytes:
    return f"{tag}:{number}".encode()


def whole_body(tag: str, chunks: int) -> bytes:
    """All that a caller of a tagged stream receives."""
    texts = b"".join(chunk(numbered(tag, n)) for n in range(chunks))
    return first(numbered(tag, -1)) + texts + LAST


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
