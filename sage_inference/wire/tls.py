"""TLS on a connection that was accepted: a transport between the event loop's own and a protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterable
from typing import Any

from sage_inference.wire.message import Data

# Each record costs a call. Therefore each uses up as many bytes of an allowance, and each byte in it adds one.
_GRAIN_BYTES = 64
_GRAINS = 8192 * _GRAIN_BYTES
_RECORD = (
    16384  # the most bytes of one record (RFC 8446 section 5.1), so a read leaves nothing of a record behind
)
# Records without data, such as updates of the key, cost 10 to 20 us each, and one call reads all that are there. So few
# bytes are read at a time, and a connection may have no more than these that yielded no data. A record that is not
# complete yet is among them.
_SLICE = 65536
_AROUND = 256  # bytes of a record beside its data, at most: 22 in TLS 1.3, up to 85 with the block ciphers of TLS 1.2
_MOST_IDLE = 65536 + 2 * _RECORD

log = logging.getLogger("sage_inference.wire")


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The transport of ``protocol`` on a connection with TLS, and the protocol of the transport below.

    ``protocol`` is connected as soon as the connection is accepted, not after the handshake. Its deadline and its
    place among all connections therefore bound the handshake as well. Bytes that it writes before that are dropped.

    The transport below keeps the bytes that are written and the limits of its buffer. So a slow reader pauses a
    writer as without TLS, and one that leaves is noticed as soon.
    """

    __slots__ = (
        "_below",
        "_closing",
        "_decrypt",
        "_encrypt",
        "_grains",
        "_idle",
        "_incoming",
        "_outgoing",
        "_plain_refusal",
        "_protocol",
        "_ready",
        "_tls",
    )

    _below: asyncio.Transport

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext, plain_refusal: bytes) -> None:
        """``plain_refusal`` answers a caller that speaks HTTP without TLS."""
        super().__init__()
        self._protocol = protocol
        self._plain_refusal = plain_refusal
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._decrypt, self._encrypt = self._tls.read, self._tls.write
        self._ready = False  # the handshake is complete
        self._closing = False
        self._grains = 0  # bytes of the allowance that small records have used up
        self._idle = 0  # bytes that came and yielded no data, beyond a usual record's own

    # Called by the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport  # type: ignore[assignment]
        self._protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        size = len(data)
        if size > _SLICE:
            for at in range(0, size, _SLICE):
                self.data_received(data[at : at + _SLICE])
            return
        self._incoming.write(data)
        if not self._ready:
            if not self._shake_hands(data):
                return
            size = 0  # most of it was the handshake
        try:
            plain = self._decrypt(_RECORD)
        except ssl.SSLWantReadError:  # only a part of a record, or records without data
            self._idle += size
            if self._idle > _MOST_IDLE:
                self._fail(ssl.SSLError("too many records without data"))
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        if plain and not self._incoming.pending and not self._idle and size - len(plain) < _GRAIN_BYTES:
            self._protocol.data_received(plain)
        else:
            self._read_on(plain, size)

    def _read_on(self, first: bytes, size: int) -> None:
        """Pass on all records at once. A large body thus arrives in few pieces. ``size`` is that of what came."""
        pieces = [first]
        failure: ssl.SSLError | None = None
        try:
            while pieces[-1] and self._incoming.pending:
                pieces.append(self._decrypt(_RECORD))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failure = error
        data = b"".join(pieces)
        grains = len(pieces) * _GRAIN_BYTES
        self._grains = max(0, self._grains + grains - len(data))
        self._idle = max(0, self._idle + size - len(data) - len(pieces) * _AROUND)
        if self._grains > _GRAINS or self._idle > _MOST_IDLE:
            failure = ssl.SSLError("too many small records")
        elif data:
            self._protocol.data_received(data)
        if failure is not None:
            self._fail(failure)
        elif not pieces[-1]:  # the caller's close_notify
            self._protocol.eof_received()
            self.close()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        protocol = self._protocol
        # Without this reference the two are freed at once, not by the garbage collector.
        self._protocol = _NOBODY
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # The handshake

    def _shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake. True if it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST" or data[:1].isupper():
                log.debug("%s speaks HTTP without TLS", self._peer)
                self._outgoing.read()  # an alert, which is nothing to such a caller
                self._below.write(self._plain_refusal)
                self._closing = True
                self._below.close()
            else:
                self._fail(error)
            return False
        self._ready = True
        self._flush()
        return True

    def _fail(self, error: ssl.SSLError) -> None:
        """End the connection with the alert that OpenSSL wrote, if it wrote one."""
        what = "a record" if self._ready else "the handshake"
        log.debug("%s of %s failed: %s", what, self._peer, getattr(error, "reason", None) or error)
        self._closing = True
        self._flush()
        self._below.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    @property
    def _peer(self) -> str:
        peer = self._below.get_extra_info("peername")
        return str(peer[0]) if peer else "a caller"

    # Called by the protocol

    def write(self, data: Data) -> None:  # type: ignore[override]
        if self._closing or not self._ready or not data:
            return
        self._put(data)
        self._below.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[Data]) -> None:  # type: ignore[override]
        if self._closing or not self._ready:
            return
        for data in list_of_data:
            if data:
                self._put(data)
        self._flush()

    def _put(self, data: Data) -> None:
        """Encrypt. OpenSSL makes one record for each call."""
        done = self._encrypt(data)
        if done < len(data):
            rest = memoryview(data)
            while done < len(data):
                done += self._encrypt(rest[done:])

    def close(self) -> None:
        """Close behind all that was written, with the sign that nothing is missing (close_notify)."""
        if self._closing:
            return
        self._closing = True
        if self._ready:
            with contextlib.suppress(ssl.SSLError):  # the caller's own close_notify is not waited for
                self._tls.unwrap()
            self._flush()
        self._below.close()

    def abort(self) -> None:
        """Close at once. The caller gets no close_notify, so the answer does not look complete."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing()

    def pause_reading(self) -> None:
        # Every whole record was passed on, so nothing has to be kept back here.
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._tls.context
        if name == "ssl_object":
            return self._tls
        return self._below.get_extra_info(name, default)


_NOBODY = asyncio.Protocol()
