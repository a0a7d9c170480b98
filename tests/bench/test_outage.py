"""How an answer is judged by what an engine ought to have sent."""

from __future__ import annotations

import json

import pytest

from tests.bench.outage.heard import Ask, End, Heard

STREAM = Ask(3, True, 10, 6)
PLAIN = Ask(4, False, 10, 6)


def events(*texts: str) -> bytes:
    return b"".join(
        b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode() for text in texts
    )


def heard(ask: Ask, body: bytes, complete: bool, status: int = 200) -> Heard:
    return Heard(ask, 0.0, status=status, complete=complete, body=bytearray(body))


TEXT = STREAM.expected()
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"cut"}}\n\n'


@pytest.mark.parametrize(
    ("body", "complete", "end"),
    [
        (events(TEXT[:9], TEXT[9:]) + DONE, True, End.WHOLE),
        (events(TEXT[:9]) + ERROR, False, End.CUT),
        (events(TEXT[:9]), False, End.CUT),
        (events(TEXT) + DONE, False, End.FALSE),
        (events(TEXT[:9]) + DONE, True, End.FALSE),
        (events(TEXT), True, End.FALSE),
        (events(TEXT[:9], "other") + DONE, True, End.FALSE),
        (events("other"), False, End.FAILED),
        (b"", False, End.FAILED),
    ],
    ids=[
        "whole",
        "error event",
        "cut",
        "no end of the framing",
        "short",
        "no DONE",
        "text",
        "wrong",
        "nothing",
    ],
)
def test_a_stream_is_whole_or_visibly_cut_or_wrong(body: bytes, complete: bool, end: End) -> None:
    assert heard(STREAM, body, complete).end is end


@pytest.mark.parametrize(
    ("text", "complete", "status", "end"),
    [
        (PLAIN.expected(), True, 200, End.WHOLE),
        (PLAIN.expected()[:5], True, 200, End.FALSE),
        (PLAIN.expected(), False, 200, End.FAILED),
        (PLAIN.expected(), True, 502, End.FAILED),
    ],
)
def test_a_plain_answer_is_whole_or_wrong(text: str, complete: bool, status: int, end: End) -> None:
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    assert heard(PLAIN, body, complete, status).end is end
