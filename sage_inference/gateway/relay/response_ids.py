"""The ids in the Responses API: the one of a response, and the one of the response that a request continues."""

from __future__ import annotations

import re

import msgspec

from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.wire.body_coding import CodingError, coding_of
from sage_inference.wire.body_coding import decoded as uncoded
from sage_inference.wire.message import Data, ResponseHead, StreamFormat

# Engines send the id among the first fields. An incomplete document is searched only so far.
_HEAD = 4096
_MOST_WHOLE = 1 << 20  # bytes of a document that is read to its end
_MOST_EVENTS = 65536  # bytes of a stream: its first event repeats the request's instructions and tools
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
_TOKEN = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)', re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class _Response(msgspec.Struct, gc=False):
    id: str = ""


class _Event(msgspec.Struct, gc=False):
    response: _Response | None = None


class _Asked(msgspec.Struct, gc=False):
    previous_response_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    request_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_asked = msgspec.json.Decoder(_Asked).decode


def ids_in(body: bytes) -> tuple[str | None, str | None]:
    """The id of the response that a request continues, and the id that it chooses for its own, as vLLM allows.

    Raises ``Rejection`` for a body that is not JSON.
    """
    asked = decoded(_decode_asked, body)
    return _text(asked.previous_response_id), _text(asked.request_id)


def _text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    if isinstance(raw, msgspec.UnsetType) or bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except UNREADABLE:  # not a text, or half a surrogate pair: no response has such an id
        return bytes(raw).decode("utf-8", "replace")


class IdSeeker:
    """Finds a response's id in the first pieces of an answer. ``done``: no more pieces are needed."""

    def __init__(self, answer: ResponseHead) -> None:
        self._coding = coding_of(answer)
        self._events = answer.stream is StreamFormat.EVENTS
        self._text = bytearray()
        self._fed = 0
        self._searched = 0  # bytes of the text that hold no end of an event
        self._scan_from = 1  # size of the text from which its head is scanned again
        self.done = False

    def feed(self, piece: Data, end: bool) -> str | None:
        """Returns the id, once it is found."""
        most = _MOST_EVENTS if self._events else _MOST_WHOLE
        self._text += piece[: max(0, most - self._fed)]
        self._fed += len(piece)
        full = self._fed > most
        found = self._of_events() if self._events else self._of_document(end and not full)
        if found is None and len(self._text) >= self._scan_from and not self._coding:
            found = self._of_head()
        self.done = found is not None or end or full or (not self._events and len(self._text) >= _HEAD)
        if self.done:
            self._text.clear()
        return found

    def _of_events(self) -> str | None:
        """The id in the first event that has one. Events before that are dropped."""
        while (end := _EVENT_END.search(self._text, self._searched)) is not None:
            event = bytes(self._text[: end.start()])
            del self._text[: end.end()]
            self._searched, self._scan_from = 0, 1
            try:
                response = _decode_event(_data_of(event)).response
            except UNREADABLE:
                continue
            if response is not None and response.id:
                return response.id
        self._searched = max(0, len(self._text) - 3)
        return None

    def _of_document(self, whole: bool) -> str | None:
        if not whole:
            return None
        try:
            text = bytes(self._text)
            if self._coding:
                text = uncoded(self._coding, text, _MOST_WHOLE)
            return _decode_response(text.removeprefix(_BOM)).id or None
        except (*UNREADABLE, CodingError):
            return None

    def _of_head(self) -> str | None:
        """The id in the beginning of a document or an event that is incomplete.

        The text is scanned again only when it has doubled. A scan for each piece would cost quadratic time.
        """
        self._scan_from = 2 * len(self._text) if len(self._text) < _HEAD else _MOST_WHOLE + 1
        head = bytes(self._text[:_HEAD])
        if self._events:
            return _text_at(_data_of(head), (b'"response"', b'"id"'))
        return _text_at(head.removeprefix(_BOM), (b'"id"',))


def _data_of(event: bytes) -> bytes:
    lines = _LINE.split(event.removeprefix(_BOM))
    return b"\n".join([line[5:] for line in lines if line.startswith(b"data:")])


def _text_at(document: bytes, path: tuple[bytes, ...]) -> str | None:
    """The text at ``path`` in a JSON object that may be cut off; None if ``document`` does not reach so far."""
    keys: list[bytes | None] = []  # the current key of each open object, outermost first; None for an array
    is_key = False
    for found in _TOKEN.finditer(document):
        token = found[1]
        if token in (b"{", b"["):
            keys.append(b"" if token == b"{" else None)
            is_key = token == b"{"
        elif token in (b"}", b"]"):
            if not keys:
                return None
            keys.pop()
        elif token == b",":
            is_key = bool(keys) and keys[-1] is not None
        elif token == b":":
            is_key = False
        elif is_key:
            keys[-1] = token
        elif tuple(keys) == path:
            try:
                return msgspec.json.decode(token, type=str)
            except UNREADABLE:
                return None
    return None
