"""The receivers of an engine's answer, and how an exchange with an engine fails."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from sage_inference.wire.message import Data, ResponseHead


class Broken(Enum):
    """How an exchange with an engine failed; decides whether the request may be sent elsewhere."""

    REFUSED = auto()  # no connection was made
    CLOSED = auto()  # the engine closed or reset before its answer ended
    GARBAGE = auto()  # the bytes that came are not an HTTP answer


class Receiver(Protocol):
    """The receiver of an answer: first of its head, then of its body in pieces, of which the last has ``end``.

    ``length`` is None if the head does not have the body's length. The last piece is always ``bytes``.
    ``engine_failed`` is called instead of what did not come. ``engine_is_silent`` is a report that the engine answers
    nobody; the receiver decides whether to leave. ``broke`` gets exceptions of the receiver's own methods.
    """

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None: ...

    def engine_sends(self, piece: Data, end: bool) -> None: ...

    def engine_failed(self, how: Broken, detail: str) -> None: ...

    def engine_is_silent(self) -> None: ...

    def broke(self, error: Exception) -> None: ...


class ChunkTaker(Protocol):
    """Takes chunks of an answer as they came, framing included."""

    def pass_on(self, chunk: bytes) -> None: ...
