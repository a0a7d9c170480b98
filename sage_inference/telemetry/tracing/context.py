"""The W3C trace context of a request: read from its caller's headers, and written for its engines.

See https://www.w3.org/TR/trace-context/. A ``traceparent`` that breaks its rules is ignored, and so is the
``tracestate`` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import getrandbits
from typing import NamedTuple

TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
SAMPLED, RANDOM = 1, 2  # flags

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = rb"[a-z0-9][_0-9a-z\-*/@]{0,255}"
_MEMBER = re.compile(_KEY + rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MOST_MEMBERS = 32


class TraceContext(NamedTuple):
    """The span of a caller. ``state`` is the value of its ``tracestate``, or empty."""

    trace_id: int
    span_id: int
    flags: int
    state: bytes

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def context_in(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """The caller's context; None without a valid ``traceparent``."""
    parent: bytes | None = None
    states: list[bytes] = []
    for name, value in headers:
        if name == b"traceparent":
            if parent is not None:  # two of them: neither can be trusted
                return None
            parent = value
        elif name == b"tracestate":
            states.append(value)
    return None if parent is None else _parsed(parent.strip(b" \t"), b",".join(states))


def _parsed(parent: bytes, state: bytes) -> TraceContext | None:
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id = found[1], int(found[2], 16), int(found[3], 16)
    # A later version may have more fields, and the four of version 00 come first.
    if version == b"ff" or (version == b"00" and found[5] is not None) or not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, int(found[4], 16) & (SAMPLED | RANDOM), _valid_state(state))


def _valid_state(state: bytes) -> bytes:
    """``state`` in its normal form, or nothing if a member of it is not valid."""
    members = [member.strip(b" \t") for member in state.split(b",")]
    members = [member for member in members if member]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > _MOST_MEMBERS or len(keys) < len(members):
        return b""
    return b",".join(members) if all(map(_MEMBER.fullmatch, members)) else b""


def new_span_id() -> int:
    """A random id. 0 would mean no span."""
    return getrandbits(64) or 1


def header_lines(trace_id: int, span_id: int, flags: int, state: bytes) -> bytes:
    """The header lines for an engine, each with its line end."""
    parent = b"traceparent: 00-%032x-%016x-%02x\r\n" % (trace_id, span_id, flags)
    return b"%btracestate: %b\r\n" % (parent, state) if state else parent
