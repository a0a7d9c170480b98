"""An engine's answer as a whole, and what an error in it says about the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_inference.engines.answer import Answer, Piece

if TYPE_CHECKING:
    from sage_inference.gateway.state import Engine

# The engine may dislike one text and not the others. 500 is among them: a text that breaks an engine must
# not fail forty callers, and some servers say so where they mean "too long" (llama.cpp).
_OF_A_TEXT = frozenset({400, 413, 422, 424, 500})
_TOO_MANY_BYTES = b"length limit exceeded"


@dataclass(eq=False, slots=True)
class EngineAnswer:
    """``pieces``: its body as it came."""

    head: Answer
    pieces: list[Piece]
    engine: Engine

    @property
    def body(self) -> bytes:
        if len(self.pieces) > 1:
            self.pieces[:] = [b"".join(self.pieces)]
        return bytes(self.pieces[0])

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def means_draining(self) -> bool:
        return self.engine.dialect.means_draining(self.status, self.body)

    @property
    def may_blame_a_text(self) -> bool:
        return self.status in _OF_A_TEXT

    @property
    def texts_allowed(self) -> int | None:
        """How many texts the engine says it takes in a call."""
        return self.engine.dialect.texts_allowed(self.body) if self.status in (400, 413, 422) else None

    @property
    def says_too_long(self) -> bool:
        words = self.engine.dialect.too_long
        return self.status in (413, 422) and bool(words) and words in self.body

    @property
    def too_many_bytes(self) -> bool:
        return self.status == 413 and _TOO_MANY_BYTES in self.body
