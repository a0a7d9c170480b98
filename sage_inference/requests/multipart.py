"""The field ``model`` of a multipart body, found without reading the files."""

from __future__ import annotations

import re

_MOST_PARTS = 64
_HEAD_BYTES = 4096  # of one part
_BOUNDARY_BYTES = 100  # RFC 2046 allows 70
_NAMES_MODEL = re.compile(
    rb'^content-disposition:[ \t]*form-data;[ \t]*name="?model"?[ \t]*(?:;|\r|$)', re.I | re.M
)


def model_field(body: bytes) -> tuple[int, int] | None:
    """The begin and the end of the value of ``model``; None if none of the first 64 parts has that name."""
    at = 0 if body.startswith(b"--") else body.find(b"\r\n--", 0, _HEAD_BYTES) + 2
    line_end = body.find(b"\r\n", at, at + _BOUNDARY_BYTES)
    if line_end < 0 or body[at : at + 2] != b"--":
        return None
    delimiter = b"\r\n" + body[at:line_end].rstrip(b" \t")
    at = line_end
    for _ in range(_MOST_PARTS):
        head_end = body.find(b"\r\n\r\n", at, at + _HEAD_BYTES)
        if head_end < 0:
            return None
        start = head_end + 4
        end = body.find(delimiter, start - 2)  # an empty part has only one line break
        if end < 0:
            return None
        if _NAMES_MODEL.search(body, at + 2, head_end):
            return start, max(start, end)
        at = end + len(delimiter)
        if body[at : at + 2] == b"--":
            return None
    return None
