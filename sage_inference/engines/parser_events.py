"""Between llhttp and the connections whose answers it parses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_inference.engines.connection import EngineConnection


class ParserEvents:
    """The reports of parsers, and the connection they belong to: one for all of a loop, since feeding one never leads to another.

    Parsers keep what they find here, so a thousand streams share it. Of bodies C code takes note: not a frame of
    ours a chunk.
    """

    connection: EngineConnection

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # of bodies
        self.on_body = self.pieces.append
        # Turned round at both ends of a chunk; the first shows whether the parser is between two.
        self._turns = [True, False]
        self.on_chunk_header = self.on_chunk_complete = self._turns.reverse
        # Else each parser would have bound methods of its own.
        self.on_message_begin = self._on_message_begin
        self.on_header = self._on_header
        self.on_headers_complete = self._on_headers_complete
        self.on_message_complete = self._on_message_complete

    def begin(self, connection: EngineConnection, between: bool) -> None:
        """The next bytes are this connection's; ``between``: its parser stands between two chunks."""
        self.connection = connection
        self.pieces.clear()
        if self._turns[0] is not between:
            self._turns.reverse()

    @property
    def between(self) -> bool:
        return self._turns[0]

    def _on_message_begin(self) -> None:
        self.connection.on_message_begin()

    def _on_header(self, name: bytes, value: bytes) -> None:
        self.connection.on_header(name, value)

    def _on_headers_complete(self) -> None:
        self.connection.on_headers_complete()

    def _on_message_complete(self) -> None:
        self.connection.on_message_complete()
