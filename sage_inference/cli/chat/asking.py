"""One question to a model: the request, its streamed answer, and the times of both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage_inference.cli.served import ModelServer, failure_of
from sage_inference.client.answers import chat_result, error_of
from sage_inference.client.direct_http import transport_to
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.errors import SageInferenceError
from sage_inference.client.requests import chat_body, post
from sage_inference.client.stream_text import StreamText
from sage_inference.client.streams import TextStream
from sage_inference.client.transport import ByteStream

Message = Mapping[str, str]

_PATH = "/v1/chat/completions"
_SILENCE_S = 3600.0  # the gateway has limits of its own, and a caller has Ctrl-C


class AnswerListener(Protocol):
    """Receives an answer as it comes."""

    def text(self, piece: str) -> None: ...
    def thought(self, piece: str) -> None: ...
    def comment(self, comment: bytes) -> None: ...


@dataclass(slots=True)
class Reply:
    """An answer, complete or as far as it came. ``ttft_s`` counts from sending to the first text or thought."""

    model: str
    began: float
    pieces: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    usage: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    request_id: str = ""
    instance: str | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def completion_tokens(self) -> int | None:
        return _count(self.usage.get("completion_tokens"))

    @property
    def tokens_per_s(self) -> float | None:
        """The speed after the first token, which took the whole prompt."""
        tokens = self.completion_tokens
        if tokens is None or tokens < 2 or self.ttft_s is None or self.duration_s - self.ttft_s < 0.001:
            return None
        return (tokens - 1) / (self.duration_s - self.ttft_s)

    def came(self) -> None:
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self.began


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def document(reply: Reply) -> dict[str, Any]:
    """The answer for a script."""
    usage = {name: _count(reply.usage.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    return {
        "schema": 1,
        "model": reply.model,
        "content": reply.text,
        "reasoning": "".join(reply.thoughts) or None,
        "finish_reason": reply.finish_reason,
        **usage,
        "ttft_ms": None if reply.ttft_s is None else round(reply.ttft_s * 1000, 1),
        "duration_ms": round(reply.duration_s * 1000, 1),
        "tokens_per_s": None if reply.tokens_per_s is None else round(reply.tokens_per_s, 1),
        "instance": reply.instance,
        "request_id": reply.request_id or None,
    }


def ask(
    server: ModelServer,
    reply: Reply,
    messages: Sequence[Message],
    fields: Mapping[str, Any],
    listener: AnswerListener,
) -> None:
    """Send the messages and fill ``reply``, also of an answer that breaks off. Raises ``Failure``.

    Leaving by an exception, such as a Ctrl-C's, closes the connection, which cancels the request in the engine.
    """
    body = chat_body(list(messages), {"stream": True, "stream_options": {"include_usage": True}, **fields})
    request = post(Endpoint(server.url, None, server.key), _PATH, body, model=reply.model)
    try:
        stream = transport_to(server.url).open(request, _SILENCE_S)
        try:
            _read(stream, reply, listener)
        finally:
            stream.close()
    except SageInferenceError as error:
        failure = failure_of(error, server.url, server.key is not None, reply.model)
        if reply.pieces or reply.thoughts:
            failure.message = f"the answer broke off: {failure.message}"
            failure.code = "broken_off"
        raise failure from None
    finally:
        reply.duration_s = time.perf_counter() - reply.began


def _read(stream: ByteStream, reply: Reply, listener: AnswerListener) -> None:
    head = stream.head
    if head.status >= 400:
        raise error_of(head)

    def thought(piece: str) -> None:
        reply.came()
        reply.thoughts.append(piece)
        listener.thought(piece)

    if not head.headers.get("content-type", "").startswith("text/event-stream"):
        _read_whole(stream, reply, listener)
        return
    text = StreamText("chat", head, on_thought=thought, on_comment=listener.comment)
    pieces = TextStream(stream, text)
    try:
        for piece in pieces:
            reply.came()
            reply.pieces.append(piece)
            listener.text(piece)
    finally:
        result = pieces.result
        reply.usage, reply.finish_reason = result.usage, result.finish_reason
        reply.request_id, reply.instance = result.request_id, result.instance


def _read_whole(stream: ByteStream, reply: Reply, listener: AnswerListener) -> None:
    """The answer of a server that does not stream."""
    from dataclasses import replace

    result = chat_result(replace(stream.head, body=b"".join(stream)))
    reply.came()
    reply.usage, reply.finish_reason = result.usage, result.finish_reason
    reply.request_id, reply.instance = result.request_id, result.instance
    reply.pieces.append(result.text)
    listener.text(result.text)
