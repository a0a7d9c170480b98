"""The outcome of a message in Anthropic's protocol, by its end: finished, or given up by its engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sage_inference.gateway.relay.answer_outcome import failure_of
from sage_inference.types import RequestType
from sage_inference.wire.message import StreamFormat

USAGE = {"input_tokens": 3, "output_tokens": 4}
TEXT = [{"type": "text", "text": 'it said "stop_reason":"end_turn" and "abort"'}]
TOOL = [
    {"type": "tool_use", "id": "t", "name": "n", "input": {"stop_reason": "bad", "model": "x", "usage": 1}}
]


def _plain(end: dict[str, Any], content: Any = TEXT) -> bytes:
    """A message with the keys in vLLM's order."""
    head = {"id": "m", "type": "message", "role": "assistant", "content": content, "model": "m"}
    return json.dumps({**head, **end, "usage": USAGE}, separators=(",", ":")).encode()


def _stream(reason: str, last: bytes = b"data: [DONE]\n\n") -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT[0]["text"]}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": json.loads(reason), "usage": USAGE},
        {"type": "message_stop"},
    ]
    return (
        b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
        + last
    )


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (_plain({}), "aborted"),
        (_plain({"stop_reason": None}), "aborted"),
        (_plain({}, [{"type": "text", "text": "x" * 5000}]), "aborted"),
        (_plain({}, []), "aborted"),
        (_plain({"stop_reason": "end_turn"}), None),
        (_plain({"stop_reason": "max_tokens", "stop_sequence": None}), None),
        (_plain({"stop_reason": "tool_use"}, TOOL), None),
        (b'{"id":"m","type":"message","stop_reason":"end_turn","content":[' + b'"x",' * 900 + b'"x"]}', None),
        (b"not JSON", None),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_plain_message_without_a_stop_reason_was_given_up(
    body: bytes, outcome: str | None, whole: bool
) -> None:
    last = body if whole else body[-1024:]
    found = failure_of(StreamFormat.OPAQUE, RequestType.MESSAGES, last, whole or len(body) <= 1024)
    assert (found and found.outcome) == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (_stream('{"stop_reason": null}'), "aborted"),
        (_stream('{"stop_reason": null}', b""), "aborted"),
        (_stream("{}"), "aborted"),
        (_stream('{"stop_reason": "end_turn"}'), None),
        (_stream('{"stop_reason": "stop_sequence", "stop_sequence": "abort"}', b""), None),
        (_stream('{"stop_reason": null}').partition(b"event: message_delta")[0], "cut"),
    ],
)
def test_a_streamed_message_without_a_stop_reason_was_given_up(body: bytes, outcome: str | None) -> None:
    found = failure_of(StreamFormat.EVENTS, RequestType.MESSAGES, body[-1024:], False)
    assert (found and found.outcome) == outcome
