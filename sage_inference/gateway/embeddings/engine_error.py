"""An engine's answer as a whole, and the meaning of an error in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sage_inference.gateway.relay.attempt import REFUSED_STATUSES
from sage_inference.wire.body_coding import CodingError, coding_of, decoded, uncoded
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream

# Statuses whose cause may be one text of the call. 500 is among them, because a text that breaks an engine must not
# fail forty callers, and because llama.cpp answers 500 to a text that is too long.
_OF_A_TEXT = frozenset({400, 413, 422, 424, 500})
# The most that a decoded body may have: 20,000 numbers a text. The event loop stands still while it is decoded.
FEWEST_BYTES, BYTES_A_TEXT = 1 << 20, 1 << 19
_TOO_MANY_BYTES = b"length limit exceeded"


class Meaning(Enum):
    """The kinds of answers that a call distinguishes."""

    VECTORS = "vectors"
    NONSENSE = "nonsense"  # a redirect or the like, whose content belongs to no single caller
    DRAINING = "draining"
    DIED = "died"
    BUSY = "busy"
    NO_ROUTE = "no route"
    REFUSAL = "refusal"  # of the call, or of a text in it


@dataclass(eq=False, slots=True)
class EngineAnswer:
    """``pieces``: its body, decoded where it came compressed. ``unread`` is the reason where that was not possible."""

    head: ResponseHead
    pieces: list[Data]
    engine: Upstream
    unread: CodingError | None = None

    @classmethod
    def of(cls, head: ResponseHead, pieces: list[Data], engine: Upstream, texts: int) -> EngineAnswer:
        """``texts`` bounds what a compressed body may hold: so many vectors, and no more than a moment takes."""
        coding = coding_of(head)
        if not coding:
            return cls(head, pieces, engine)
        try:
            body = decoded(coding, b"".join(pieces), FEWEST_BYTES + BYTES_A_TEXT * texts)
        except CodingError as error:
            return cls(head, pieces, engine, error)
        return cls(uncoded(head), [body], engine)

    @property
    def body(self) -> bytes:
        if len(self.pieces) > 1:
            self.pieces[:] = [b"".join(self.pieces)]
        return bytes(self.pieces[0])

    @property
    def status(self) -> int:
        return self.head.status

    def meaning(self, route: str) -> Meaning:
        """Its meaning for a call to ``route``."""
        status, engine = self.status, self.engine
        if status == 200:
            return Meaning.VECTORS
        if status < 400:
            return Meaning.NONSENSE
        # Before the statuses, because an engine that is about to end answers with those of one that is only busy.
        if engine.dialect.means_draining(status, self.body):
            return Meaning.DRAINING
        if status >= 500 and engine.dialect.means_death(self.body):
            return Meaning.DIED
        if status in REFUSED_STATUSES:
            return Meaning.BUSY
        # The body is searched only where the engine's routes are a guess.
        if engine.may_lack_route(status) and engine.lacks_route(status, route, self.body):
            return Meaning.NO_ROUTE
        return Meaning.REFUSAL

    @property
    def means_end(self) -> bool:
        """Whether the engine shuts down, or died."""
        dialect = self.engine.dialect
        if dialect.means_draining(self.status, self.body):
            return True
        return self.status >= 500 and dialect.means_death(self.body)

    @property
    def may_blame_a_text(self) -> bool:
        return self.status in _OF_A_TEXT

    @property
    def texts_allowed(self) -> int | None:
        """The number of texts that the engine takes in a call, by its refusal."""
        return self.engine.dialect.texts_allowed(self.body) if self.status in (400, 413, 422) else None

    @property
    def says_too_long(self) -> bool:
        words = self.engine.dialect.too_long
        return self.status in (413, 422) and bool(words) and words in self.body

    @property
    def too_many_bytes(self) -> bool:
        return self.status == 413 and _TOO_MANY_BYTES in self.body
