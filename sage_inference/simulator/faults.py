"""Faults on demand. Each has a kind, and optionally a count and a route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KINDS: dict[str, str] = {
    "refuse": "the port refuses connections; idle ones are closed (the control port stays)",
    "unhealthy": "GET /health answers 503",
    "delay_ms": "wait this long, then answer as usual",
    "hang": "never answer",
    "status": "answer with this status; body and headers may be given too",
    "draining": "answer 500 as vLLM does after SIGTERM",
    "garbage": "answer with bytes that are not HTTP, and close",
    "reset_before_response": "reset the connection instead of answering",
    "close_before_response": "close the connection instead of answering",
    "reset_after_chunks": "reset the connection after this many chunks (a plain body: half-way)",
    "close_after_chunks": "the same with an orderly close",
    "hang_after_chunks": "send nothing more after this many chunks",
    "error_after_chunks": "after this many chunks send an error event, then [DONE], as when vLLM's core dies",
    "slow_drip_ms": "wait this long between a stream's chunks, before its end, or between 16 bytes of a plain body",
    "truncate": "close half-way through the body",
    "wrong_content_length": "declare this many bytes more (or, negative, fewer) than the body has",
    "surplus": "send these bytes after the complete answer on the connection",
}
STANDING = frozenset({"refuse", "unhealthy"})  # states of the engine, not of a request


class FaultError(ValueError):
    """The given faults are invalid. The message has the reason."""


@dataclass(slots=True)
class Fault:
    kind: str
    value: Any
    count: int | None = None  # requests that it still affects; None: all
    route: str | None = None  # None: every POST
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def meets(self, method: str, path: str) -> bool:
        if self.kind in STANDING or self.count == 0:
            return False
        return path == self.route if self.route else method == "POST"

    def as_json(self) -> dict[str, Any]:
        extras = {"count": self.count, "route": self.route, "body": self.body, "headers": self.headers}
        return {self.kind: self.value, **{key: value for key, value in extras.items() if value}}


_EXTRAS = {one.name for one in fields(Fault)} - {"kind", "value"}


def parse(document: Any) -> list[Fault]:
    """The faults in an object with one fault, or in a list of such. Empty means no faults. Raises ``FaultError``."""
    documents = document if isinstance(document, list) else [document]
    return [_parse_one(one) for one in documents if one]


def _parse_one(document: Any) -> Fault:
    if not isinstance(document, dict):
        raise FaultError(f"a fault is an object such as {{'hang': true}}, not {document!r}")
    kinds = [key for key in document if key in KINDS]
    unknown = [key for key in document if key not in KINDS and key not in _EXTRAS]
    if unknown:
        raise FaultError(
            f"unknown fault {unknown[0]!r}; there are {', '.join(KINDS)}, with {', '.join(_EXTRAS)}"
        )
    if len(kinds) != 1:
        raise FaultError(f"a fault has one kind, not {kinds or 'none'}; for several at once give a list")
    extras = {key: document[key] for key in _EXTRAS if key in document}
    return Fault(kinds[0], document[kinds[0]], **extras)


class FaultBook:
    """The faults in force. Some are states of the engine and not of a request."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.on_change: Callable[[], None] = lambda: None

    def replace(self, faults: list[Fault]) -> None:
        self._faults = [one for one in faults if one.value is not False]
        self.on_change()

    def stands(self, kind: str) -> bool:
        return any(one.kind == kind for one in self._faults)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of this request, if any. Reduces the fault's count by one."""
        for fault in self._faults:
            if fault.meets(method, path):
                if fault.count is not None:
                    fault.count -= 1
                return fault
        return None

    def as_json(self) -> list[dict[str, Any]]:
        return [one.as_json() for one in self._faults if one.count != 0]
