"""Between llhttp and the connections whose answers it parses."""

from __future__ import annotations

from typing import Protocol


class ParsedConnection(Protocol):
    """A connection with a parser, as these events need it."""

    def on_message_begin(self) -> None: ...

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_message_complete(self) -> None: ...


class ParserEvents:
    """The parsers' callbacks, shared by all connections of a loop. ``connection`` is the one whose bytes are parsed.

    One object is enough, because parsing one connection's bytes never leads to parsing another's. Each parser keeps
    a reference to every callback, so callbacks of its own would cost memory for each of a thousand streams.
    ``on_body`` is ``list.append`` itself, so no Python frame runs per chunk.
    """

    connection: ParsedConnection

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # of bodies
        self.on_body = self.pieces.append
        # Reversed at both ends of a chunk, also without a Python frame: the first item is whether the parser stands
        # between two chunks.
        self.between_chunks = [True, False]
        self.on_chunk_header = self.on_chunk_complete = self.between_chunks.reverse
        # Bound once: otherwise each parser would make bound methods of its own.
        self.on_message_begin = self._on_message_begin
        self.on_header = self._on_header
        self.on_headers_complete = self._on_headers_complete
        self.on_message_complete = self._on_message_complete

    def begin(self, connection: ParsedConnection, between_chunks: bool) -> None:
        """The next bytes are this connection's. ``between_chunks``: its parser stands between two chunks."""
        self.connection = connection
        self.pieces.clear()
        if self.between_chunks[0] is not between_chunks:
            self.between_chunks.reverse()

    def _on_message_begin(self) -> None:
        self.connection.on_message_begin()

    def _on_header(self, name: bytes, value: bytes) -> None:
        self.connection.on_header(name, value)

    def _on_headers_complete(self) -> None:
        self.connection.on_headers_complete()

    def _on_message_complete(self) -> None:
        self.connection.on_message_complete()
