"""The outcome that the end of an answer shows: finished, given up by its engine, or failed.

Engines end an answer that they give up like one that they finish, with ``[DONE]`` or the last byte of a
Content-Length. A vLLM that has to stop ends its requests early with the finish reason ``abort``; in Anthropic's
protocol it then reports no stop reason, which every finished message has. When its core dies, streams end with an
error event.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from sage_inference.requests.lenient import UNREADABLE
from sage_inference.types import RequestType
from sage_inference.wire.message import StreamFormat

ABORT, _FINISH, _FINISHED = b'"abort"', b'"finish_reason":', b'"finish_reason":"'
_FINISH_BYTES = len(b'"finish_reason": "abort"')
# The finish reason stands near the end of a plain answer. Only the end is searched, because answers may be long.
PLAIN_END = 1024
_RESPONSES, _MESSAGES = RequestType.RESPONSES, RequestType.MESSAGES
# Plain answers of these types may have failed without the word abort at their end.
WITHOUT_ABORT = (_RESPONSES, _MESSAGES)
_EVENTS = StreamFormat.EVENTS
_STATUSES = {"failed": "failed", "cancelled": "aborted"}  # of a response
_ABORTED_CHOICE = re.compile(rb'"finish_reason"\s*:\s*"abort"')
# Within a text the quotes would be escaped.
_STOP_REASON = re.compile(rb'"stop_reason"\s*:\s*"')
# The end of a message without a stop reason. vLLM leaves it out of a plain one, where it stands after the model.
_NO_STOP_REASON = re.compile(rb'"stop_reason"\s*:\s*null|"model"\s*:\s*"[^"\\]*"\s*,\s*"usage"')
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DONE = re.compile(rb"data: ?\[DONE\]")
# The beginning of a stream whose first event is an error. As a bound method, because each stream's first piece is asked.
ERROR_EVENT = re.compile(
    rb'(?:event: ?error\r?\n)?data: ?\{ ?"(?:error"|type": ?"error"|object": ?"error")'
).match
# For each protocol: a mark by which its events are known, and the events that end its streams.
_ERROR = rb'|"type"\s*:\s*"error"|data: ?\{"error"'
_OPENAI = (b'"choices"', re.compile(rb'"finish_reason"\s*:\s*"' + _ERROR))
_PROTOCOLS = {
    _MESSAGES: (
        b'"content_block',
        re.compile(rb'"message_stop"|"stop_reason"\s*:\s*"' + _ERROR),
    ),
    _RESPONSES: (
        b'"response.',
        re.compile(rb'"response\.(?:completed|incomplete|failed|cancelled)"' + _ERROR),
    ),
}


class EndFailure(NamedTuple):
    """The failure of an answer that came to its end.

    ``outcome`` is ``aborted`` by its engine, ``failed`` by an error that the engine reported, or ``cut`` without its
    last event. ``status`` is that error's; from 500 on the engine is at fault.
    """

    outcome: str
    status: int


_ABORTED = EndFailure("aborted", 502)
_CUT = EndFailure("cut", 0)


def failure_of(stream: StreamFormat, type_: RequestType, last: bytes, from_start: bool) -> EndFailure | None:
    """The failure of an answer that came to its end; None for one that is finished, as far as its end shows.

    ``last`` is the end of its body, or all of it if ``from_start``.
    """
    if stream is _EVENTS:
        return _failure_of_events(last, type_)
    if stream is StreamFormat.JSON_LINES:
        return _failure_of_lines(last)
    if not _may_have_failed(last, type_):
        return None
    if from_start:
        return _failure_in(_decoded(last))
    if type_ is _MESSAGES:
        return _ABORTED
    # The match is no part of a text: there the quotes would be escaped by backslashes.
    return _ABORTED if _ABORTED_CHOICE.search(last) else None


def _may_have_failed(body: bytes, type_: RequestType) -> bool:
    """Whether a plain answer has to be parsed. Only its last finish reason is read."""
    if type_ is _RESPONSES:
        return b'"failed"' in body or b'"cancelled"' in body
    if type_ is _MESSAGES:
        end = max(0, len(body) - PLAIN_END)
        return _STOP_REASON.search(body, end) is None and _NO_STOP_REASON.search(body, end) is not None
    at = body.rfind(_FINISH, -PLAIN_END)
    return at >= 0 and body.find(ABORT, at, at + _FINISH_BYTES) > 0


def _failure_of_events(text: bytes, type_: RequestType) -> EndFailure | None:
    suspect = text.rfind(ABORT) >= 0
    if not suspect and (type_ is _RESPONSES or text.rfind(_FINISHED) < 0):
        # No finish reason: it failed, or its protocol has none. Only then an error is looked for.
        suspect = text.rfind(b'"error') >= 0
        if type_ is _RESPONSES:
            suspect = suspect or b'"failed"' in text or b'"cancelled"' in text
    if not suspect and type_ is not _MESSAGES:
        return _CUT if not text.endswith(b"[DONE]\n\n") and is_unfinished(text, type_) else None
    for event in reversed(_EVENT_END.split(text)) if suspect else ():
        lines = _LINE_END.split(event)
        data = b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])
        failure = _failure_in(_decoded(data))
        if failure is not None:
            return failure
    if is_unfinished(text, type_):
        return _CUT
    # The last delta of a finished message has its stop reason.
    given_up = type_ is _MESSAGES and b'"message_delta"' in text and _STOP_REASON.search(text) is None
    return _ABORTED if given_up else None


def is_unfinished(text: bytes, type_: RequestType) -> bool:
    """Whether these last events are of a known protocol, and none of them ends a stream of that protocol.

    A proxy in front of the engine may mistake a broken connection for the end of the answer.
    """
    if _DONE.search(text):
        return False
    begun, ended = _PROTOCOLS.get(type_, _OPENAI)
    return begun in text and not ended.search(text)


def _failure_of_lines(text: bytes) -> EndFailure | None:
    last = text.strip().rpartition(b"\n")[2]
    return _failure_in(_decoded(last)) if last.startswith(b'{"error"') else None


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        return None


def _failure_in(document: Any) -> EndFailure | None:
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "abort":
            return _ABORTED
    if document.get("type") == "message" and document.get("stop_reason") is None:
        return _ABORTED
    response = document.get("response")
    if not isinstance(response, dict):
        response = document if document.get("object") == "response" else {}
    error = document.get("error") or response.get("error")
    if error or "error" in (document.get("type"), document.get("object")):
        return EndFailure("failed", _status_of(error if isinstance(error, dict) else document))
    status = response.get("status")
    if isinstance(status, str) and status in _STATUSES:
        return EndFailure(_STATUSES[status], 502)
    return None


def _status_of(error: dict[str, Any]) -> int:
    """The HTTP status that an error stands for; 500 where it names none."""
    for name in ("code", "status", "status_code"):
        value = error.get(name)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value < 600:
            return value
    kind = str(error.get("type")).lower().replace("_", "")
    return 400 if kind.startswith(("invalidrequest", "badrequest")) else 500
