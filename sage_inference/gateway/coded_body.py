"""Decode compressed request bodies as they arrive: in another thread, one slice of one body at a time.

A hostile megabyte takes 300 ms to decompress, even without output, and longer if it has a thousand megabytes of it.
Therefore decoding does not run on the event loop, and bodies take turns. Decoded bytes are counted slice by slice,
like the bytes of plain bodies when they arrive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Protocol

from sage_inference.config.settings import LimitSettings, TimeoutSettings
from sage_inference.gateway import errors
from sage_inference.gateway.body_memory import COUNTED, Bodies
from sage_inference.gateway.decoding import Decoding
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.wire.content_coding import (
    CodingError,
    Decoder,
    TooDenseError,
    TooLongError,
    UnknownCodingError,
    codings_in,
    readable,
)

# Limits in bytes on one turn: a few ms of work for usual bodies, 20 ms for the worst.
_SLICE_IN, _SLICE_OUT = 65536, 1 << 20
# Less of a body that is still arriving is not worth a turn of the thread, which costs 0.1 ms.
_WORTH = 16384
_AHEAD = 65536  # with more bytes that wait to be decoded, the connection is not read


class BodySender(Protocol):
    """The connection on which the body arrives."""

    def pause_reading(self) -> None: ...

    def read_on(self) -> None:
        """Read again, unless there is another reason to pause."""

    def arm(self, seconds: float, /) -> None: ...


class Shared(Protocol):
    """The parts of the gateway that all bodies share."""

    @property
    def limits(self) -> LimitSettings: ...

    @property
    def timeouts(self) -> TimeoutSettings: ...

    @property
    def bodies(self) -> Bodies: ...

    @property
    def decoding(self) -> Decoding: ...


class CodedRequest(Hashable, Protocol):
    """The request that the body belongs to."""

    head: RequestHead
    size: int
    response_complete: bool
    coded: CodedBody | None

    def begin(self, body: bytes) -> None: ...

    def fail(self, error: ApiError) -> None: ...

    def broke(self, error: Exception) -> None: ...


class CodedBody:
    """The body of one exchange, which begins when all of it is decoded.

    The parser calls ``take`` with its bytes, and ``end`` after the last. ``start`` is called when the responses to
    earlier requests on the connection are complete. Nothing is decoded before, because an error response would
    overtake them.
    """

    def __init__(self, exchange: CodedRequest, gateway: Shared, sender: BodySender) -> None:
        """Raises ``ApiError`` for a coding that is not supported."""
        self._exchange = exchange
        self._gateway = gateway
        self._sender = sender
        self._decoder = decoder_for(exchange.head.codings, gateway.limits.body_bytes)
        self._coded: deque[bytes] = deque()  # not decoded yet
        self._coded_size = self._received = 0
        # Allocated by this thread: memory of a large body that the other thread allocated would not go back to the
        # system.
        self._body = bytearray()
        self._ended = self._started = self._busy = False
        self._slice: list[bytes] = []  # input of the thread's next turn
        self._more = False  # whether the decoder has more output for the input that it has

    @property
    def is_over(self) -> bool:
        """True when the request was answered or its caller has left, so that the body is of no use."""
        return self._exchange.response_complete

    # The parser

    def take(self, data: bytes) -> None:
        """Raises ``ApiError`` if this body, or all bodies together, are over their limit."""
        if self.is_over:
            return
        self._coded.append(data)
        self._coded_size += len(data)
        self._received += len(data)
        if self._received > self._gateway.limits.body_bytes:
            raise errors.body_too_large(self._gateway.limits.body_bytes)
        self._count()
        if self._coded_size > _AHEAD:
            self._sender.pause_reading()
        self._go_on()

    def end(self) -> None:
        self._ended = True
        self._go_on()

    def start(self) -> None:
        self._started = True
        self._go_on()

    # The thread

    def _go_on(self) -> None:
        if self._busy or not self._started:
            return
        if self._ended or self._more or self._coded_size >= _WORTH:
            self._busy = True
            size = 0
            while self._coded and size < _SLICE_IN and not self._more:
                self._slice.append(self._coded.popleft())
                size += len(self._slice[-1])
            self._coded_size -= size
            self._gateway.decoding.add(self)

    def decode(self) -> list[bytes]:
        """Decode the next pieces. Runs in the thread. Raises ``CodingError``."""
        decoder = self._decoder
        if self._slice:
            decoder.feed(b"".join(self._slice))
            self._slice.clear()
        pieces, size, self._more = [], 0, True
        while size < _SLICE_OUT:
            piece = decoder.read()
            if not piece:
                self._more = False
                break
            pieces.append(piece)
            size += len(piece)
        return pieces

    def decoded(self, turn: asyncio.Future[list[bytes]]) -> None:
        """Take the result of a turn. Runs on the loop."""
        self._busy = False
        if self.is_over:
            return
        exchange = self._exchange
        try:
            for piece in turn.result():
                self._body += piece
            self._count()
            if self._more or self._coded:
                self._go_on()
            elif self._ended:
                self._decoder.finish()
                self._begin()
                return
            if not self._more and self._coded_size <= _AHEAD:
                self._sender.read_on()
            self._sender.arm(self._gateway.timeouts.body_s)
        except CodingError as error:
            self._fail(self._refusal(error))
        except ApiError as error:
            self._fail(error)
        except Exception as error:
            exchange.broke(error)

    def no_thread(self, error: RuntimeError) -> None:
        """Fail the request, because there is no thread for its turn."""
        refusal = errors.out_of_resources(f"{error} for its body", "read the request")
        refusal.close = not self._ended
        self._fail(refusal)

    def _fail(self, error: ApiError) -> None:
        self._exchange.coded = None
        self._exchange.fail(error)

    def _begin(self) -> None:
        body = bytes(self._body)
        self._body.clear()
        if len(body) <= COUNTED:
            self._gateway.bodies.drop(self._exchange)
        self._sender.read_on()
        self._exchange.coded = None  # its decoder takes up to 8 MB
        self._exchange.begin(body)

    def _count(self) -> None:
        exchange = self._exchange
        size = self._coded_size + len(self._body)
        if size > COUNTED:
            exchange.size = max(exchange.size, size)  # a size over ``COUNTED`` marks the exchange as counted
            self._gateway.bodies.count(exchange, size, self._gateway.limits.bodies_bytes)

    def _refusal(self, error: CodingError) -> ApiError:
        refusal = refusal_of(error, self._gateway.limits.body_bytes)
        refusal.close = not self._ended  # after a complete body the connection can be used again
        return refusal


def decoder_for(codings: tuple[bytes, ...], most: int) -> Decoder:
    """Raises ``ApiError`` for a coding that is not supported."""
    try:
        return Decoder(codings, most)
    except UnknownCodingError as error:
        raise errors.unread_coding(error.coding, readable()) from None


def refusal_of(error: CodingError, limit: int) -> ApiError:
    """The error response to a body that cannot be decoded. ``limit`` is the most bytes that a body may have."""
    if isinstance(error, TooLongError):
        return errors.body_too_large(limit, decompressed=True)
    if isinstance(error, TooDenseError):
        return ApiError(413, f"the request's body {error}; send it uncompressed")
    return ApiError(400, f"the request's body {error}", code="bad_content_encoding")


def codings_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The codings of a request's body. Empty for a plain one."""
    return codings_in(value for name, value in headers if name == b"content-encoding")
