"""What an engine may answer to an embeddings call: the right answer, and changes that break it."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Draw:
    """Choices out of a program of bytes; 0, the simplest, once it is used up."""

    def __init__(self, program: bytes) -> None:
        self._bytes = iter(program)

    def below(self, count: int) -> int:
        return next(self._bytes, 0) % count

    def of(self, choices: Sequence[Any]) -> Any:
        return choices[next(self._bytes, 0) % len(choices)]


def vector(text: bytes) -> list[float]:
    """Each text's own, exact as float32."""
    number = zlib.crc32(text)
    return [float(number & 0xFFFFF), float(number >> 20), 0.5]


def packed(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


@dataclass
class EngineSays:
    """An answer in the making. ``ending``: what happens to its connection, and when."""

    texts: list[bytes]
    native: bool
    items: list[Any]
    indices: list[Any]
    more: dict[str, Any] = field(default_factory=dict)
    document: Any = None
    body: bytes = b""
    coding: str = ""
    coded: Callable[[bytes], bytes] = bytes
    status: int = 200
    framing: str = "length"
    ending: str = "stays"

    def write(self) -> None:
        """Make the body of what is there so far."""
        if self.document is None:
            if self.native:
                self.document = self.items
            else:
                data = [
                    {"embedding": item, "index": index} if index is not None else {"embedding": item}
                    for item, index in zip(self.items, self.indices, strict=False)
                ]
                usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
                self.document = {"object": "list", "data": data, "model": "m", "usage": usage, **self.more}
        try:
            self.body = json.dumps(self.document).encode()
        except (ValueError, RecursionError):
            self.body = b""

    def wire(self) -> bytes:
        body = self.coded(self.body)
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n" % self.status
        if self.coding:
            head += b"content-encoding: %b\r\n" % self.coding.encode()
        if self.native:
            head += b"x-compute-tokens: %d\r\n" % len(self.texts)
        if self.framing == "length":
            return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        if self.framing == "chunked":
            half = len(body) // 2
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (body[:half], body[half:]) if c)
            return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        return head + b"\r\n" + body  # ends with its connection


ODD: tuple[Any, ...] = (
    [None, None, None], None, [1.0, None, 2.0], [1e39, 1.0], [10**400], float("nan"), [float("nan")] * 3,
    [float("inf"), float("-inf"), 0.0], "YWJj", "", "€", "AAAA/w==", "AAAAAAAAAAA", [], {}, [[1.0], [2.0]], ["1", "2"],
    [True, False], True, 0, 1.5, "NaN", [{}], {"embedding": [1.0]}, [1, 2, 3], [0.1] * 5, [-0.0], "AA\nAA", "\ud800",
)  # fmt: skip
_INDICES: tuple[Any, ...] = (0, 1, -1, 10**30, "0", 0.0, 1.0, True, [], 2**31, None)
_MORE: tuple[dict[str, Any], ...] = (
    {"model": 5}, {"model": None}, {"model": "\ud800"}, {"usage": None}, {"usage": []}, {"usage": {}},
    {"usage": {"prompt_tokens": -1}}, {"usage": {"prompt_tokens": 10**30}}, {"usage": {"prompt_tokens": "x"}},
    {"data": None}, {"data": {}}, {"data": []}, {"data": [None]}, {"data": "x"}, {"embeddings": []}, {"object": 0},
)  # fmt: skip
_DOCUMENTS: tuple[Any, ...] = ({}, [], None, "", 0, {"error": "no"}, {"data": 1}, [[]], [None], [[1.0]] * 3)
_BITS = (
    b"NaN", b"Infinity", b"-", b"null", b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"e400", b"E", b".", b"0", b"9", b" ", b"\n", b"\\ud800", b"true", b"[" * 2000, b"9" * 5000, b'"embedding":[9],',
    b'"index":0,',
)  # fmt: skip
_LONG_NUMBER = 1000  # digits; Python's int refuses 4,300, and JSON knows no limit
REFUSALS = (400, 413, 422, 424, 500)
_STATUSES = (*REFUSALS, 201, 203, 204, 206, 301, 304, 401, 404, 429, 429, 502, 503, 503, 599)
_WORDS: tuple[Any, ...] = (
    {"error": {"message": "no"}}, {"message": "no", "code": 400, "type": "x"}, {}, [], "no", None,
    {"error": "batch size 9 > maximum allowed batch size 2", "error_type": "Validation"},
    {"error": "length limit exceeded"}, {"message": "must have less than 512 tokens"}, {"error": 10**30},
)  # fmt: skip
_ENDINGS = (
    "closes",
    "resets",
    "is cut",
    "is cut and resets",
    "says nothing",
    "is no HTTP",
    "leaves at once",
    "goes on",
)


def _odd_value(draw: Draw, says: EngineSays) -> None:
    if says.items:
        says.items[draw.below(len(says.items))] = draw.of(ODD)
        says.write()


def _odd_shape(draw: Draw, says: EngineSays) -> None:
    how, at = draw.below(8), draw.below(max(1, len(says.items)))
    if how == 0:
        del says.items[at : at + 1]
    elif how == 1:
        says.items.insert(at, vector(b"another"))
        says.indices.append(at)
    elif how == 2 and says.indices:
        says.indices[at % len(says.indices)] = draw.of(_INDICES)
    elif how == 3:
        says.indices = [None] * len(says.items)
    elif how == 4:  # another order, and right all the same
        says.items.reverse()
        says.indices.reverse()
    elif how == 5:
        says.more = draw.of(_MORE)
    elif how == 6:
        says.document = draw.of(_DOCUMENTS)
        says.write()
        return
    says.document = None
    says.write()


def _odd_bytes(draw: Draw, says: EngineSays) -> None:
    body = says.body
    at = (draw.below(256) << 8 | draw.below(256)) % (len(body) + 1)
    how = draw.below(6)
    if how == 0:
        says.body = body[:at]
    elif how == 1:
        says.body = body[:at] + body[at + 1 + draw.below(8) :]
    elif how == 2:
        says.body = body[:at] + bytes([draw.below(256)]) + body[at + 1 :]
    elif how == 3:
        says.body = body[:at] + draw.of(_BITS) + body[at:]
    elif how == 4:
        says.body = body + body
    else:
        says.body = bytes(body.decode("latin-1"), draw.of(("utf-16", "utf-8-sig", "utf-32-be", "latin-1")))


def _coding(draw: Draw, says: EngineSays) -> None:
    says.coding, says.coded = draw.of(CODINGS)


CODINGS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", lambda body: zlib.compress(body)[2:-4]),
    ("x-gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:])),
    ("GZIP", gzip.compress),
    ("identity", bytes),
    ("gzip", lambda body: gzip.compress(body)[:-5]),
    ("gzip", lambda body: gzip.compress(body) + b"x"),
    ("gzip", bytes),
    ("deflate", bytes),
)
_FOREIGN = ("br", "zstd", "gzip, br", "aes128gcm", ";", "gzip;q=1", "gzip, gzip, gzip")


def _foreign_coding(draw: Draw, says: EngineSays) -> None:
    says.coding = draw.of(_FOREIGN)


def _refusal(draw: Draw, says: EngineSays) -> None:
    says.status = draw.of(REFUSALS)
    says.body = json.dumps(draw.of(_WORDS)).encode()


def _status(draw: Draw, says: EngineSays) -> None:
    says.status = draw.of(_STATUSES)
    if draw.below(2):
        says.body = json.dumps(draw.of(_WORDS)).encode()


def _framing(draw: Draw, says: EngineSays) -> None:
    says.framing = draw.of(("chunked", "end"))


def _ending(draw: Draw, says: EngineSays) -> None:
    says.ending = draw.of(_ENDINGS)


Change = Callable[[Draw, EngineSays], None]
# For these one text may be to blame, so that all other callers get their vectors.
OF_A_TEXT: tuple[Change, ...] = (_odd_value, _odd_value, _odd_shape, _odd_bytes, _coding, _refusal, _framing)
ANY: tuple[Change, ...] = (*OF_A_TEXT, _foreign_coding, _status, _status, _ending, _ending)


def right(texts: list[bytes], *, base64: bool, native: bool) -> EngineSays:
    items: list[Any] = [packed(vector(text)) if base64 else vector(text) for text in texts]
    says = EngineSays(texts, native, items, list(range(len(texts))))
    says.write()
    return says


def spoiled(draw: Draw, changes: tuple[Change, ...], says: EngineSays) -> EngineSays:
    """Changed once or twice, or not at all."""
    for _ in range(draw.below(3)):
        draw.of(changes)(draw, says)
    return says


# An independent reading of it


def read(body: bytes, native: bool) -> list[Any] | None:
    """The vectors in it by place, None where it is no answer."""
    try:
        # Bytes that are no UTF-8 need not concern a vector, and neither need a count too long for Python's int.
        document = json.loads(body.decode("utf-8", "replace"), parse_int=_number)
        if native:
            return document if isinstance(document, list) else None
        found = {}
        for place, item in enumerate(document["data"]):
            index = item.get("index")
            found[place if index is None else index] = item["embedding"]
        return [found[place] for place in range(len(found))]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _number(digits: str) -> float:
    return int(digits) if len(digits) < _LONG_NUMBER else float(digits)


def meaning(value: Any) -> str:
    """The same for all forms of a vector, and for whatever else stands in its stead."""
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
            value = list(struct.unpack(f"<{len(data) // 4}f", data)) if len(data) % 4 == 0 else value
        except (binascii.Error, ValueError):
            return repr(value)
    if isinstance(value, list):
        try:
            return repr([_single(number) for number in value])
        except (TypeError, OverflowError):
            return repr(value)
    return repr(value)


def _single(number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float | None):
        raise TypeError
    if number is None or not math.isfinite(number):
        return math.nan  # JSON has no infinity either
    single: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return single
