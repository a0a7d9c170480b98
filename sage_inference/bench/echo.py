"""A server that does next to nothing. The rate that a generator reaches with it is the generator's own limit.

``python -m sage_inference.bench.echo`` prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import re
import sys

from sage_inference.bench.eventloop import new_event_loop

_ASKED = 256  # bytes: the generator's requests have all parameters in their first ones
_MAX_TOKENS = re.compile(rb'"max_tokens":(\d+)')
_LENGTH = re.compile(rb"content-length: (\d+)")

_CHUNK = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1700000000,"model":"echo","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1700000000,"model":"echo","choices":[],'
    b'"usage":{"prompt_tokens":1,"total_tokens":%d,"completion_tokens":%d}}\n\n'
)
_CHAT = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"echo","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b"},"logprobs":null,"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":1,"total_tokens":%d,"completion_tokens":%d}}'
)
_VECTOR = b",".join([b"0.0123456789"] * 384)
_EMBEDDING = b'{"object":"list","model":"echo","data":[%b],"usage":{"prompt_tokens":1,"total_tokens":1}}'
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Echo(asyncio.Protocol):
    """Answers each request at once, in the form that it asks for. A stream has one chunk per iteration of the loop."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        length = _LENGTH.search(self._buffer, 0, end) if end >= 0 else None
        if length is None or len(self._buffer) < end + 4 + int(length[1]):
            return
        request, self._buffer = self._buffer, b""
        self._answer(request[:_ASKED], request[end + 4 : end + 4 + _ASKED], request)

    def _answer(self, head: bytes, asked: bytes, request: bytes) -> None:
        if b"/v1/embeddings" in head:
            texts = request.count(b'","', len(head)) + 1
            vectors = b",".join([b'{"object":"embedding","index":0,"embedding":[%b]}' % _VECTOR] * texts)
            self._whole(_EMBEDDING % vectors)
            return
        found = _MAX_TOKENS.search(asked)
        tokens = int(found[1]) if found else 1
        if b'"stream":true' in asked:
            self.transport.write(_STREAM_HEAD)
            self._stream(tokens, tokens)
        else:
            self._whole(_CHAT % (b" word" * tokens, tokens + 1, tokens))

    def _stream(self, left: int, tokens: int) -> None:
        if self.transport.is_closing():
            return
        if left:
            self.transport.write(_framed(_CHUNK))
            self._loop.call_soon(self._stream, left - 1, tokens)
        else:
            last = _framed(_USAGE % (tokens + 1, tokens)) + _framed(b"data: [DONE]\n\n")
            self.transport.write(last + b"0\r\n\r\n")

    def _whole(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(loop), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


def main() -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
