"""Records as they come in fragments: a caller that sends data is never counted as one that sends none."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import cast

import pytest

from sage_inference.config import certificate
from sage_inference.config.settings import ServerSettings
from sage_inference.wire.tls import TlsTransport
from tests.support.tls import self_signed


class Below(asyncio.Transport):
    """The transport of a connection, as far as it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


class Received(asyncio.Protocol):
    def __init__(self) -> None:
        self.size = 0

    def data_received(self, data: bytes) -> None:
        self.size += len(data)


class Pair:
    """A caller, and our end of its connection."""

    def __init__(self, server: ssl.SSLContext, caller: ssl.SSLContext) -> None:
        self.received, self.below = Received(), Below()
        self.ours = TlsTransport(self.received, server, b"")
        self.ours.connection_made(self.below)
        incoming, self.wire = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.caller = caller.wrap_bio(incoming, self.wire)
        done = False
        while not done:
            try:
                self.caller.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            self.ours.data_received(self.wire.read())
            for piece in self.below.written:
                incoming.write(piece)
            self.below.written.clear()

    def records(self, size: int) -> bytes:
        at = 0
        while at < size:
            at += self.caller.write(bytes(min(16384, size - at)))
        return self.wire.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    own = self_signed(tmp_path_factory.mktemp("own"))
    return certificate.read(ServerSettings(tls_cert=str(own.chain), tls_key=str(own.key))).context


@pytest.mark.parametrize("cipher", ["TLS 1.3", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA384"])
def test_data_in_any_fragments_arrives_whole(server: ssl.SSLContext, cipher: str) -> None:
    """Block ciphers, the last of the three, have the largest records."""
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname, caller.verify_mode = False, ssl.CERT_NONE
    if not cipher.startswith("TLS"):
        caller.maximum_version = ssl.TLSVersion.TLSv1_2
        caller.set_ciphers(cipher)
    pair, draw, sent = Pair(server, caller), random.Random(1), 0
    for number in range(5000):
        pair.ours.data_received(pair.records(100 + number % 700))
        sent += 100 + number % 700
    for _ in range(10):
        size = draw.randrange(1, 400_000)
        raw, at = pair.records(size), 0
        while at < len(raw):
            piece = raw[at : at + draw.choice((100, 1448, 5000, 16_000, 65_536, 200_000))]
            pair.ours.data_received(piece)
            at += len(piece)
        sent += size
    assert (pair.received.size, pair.below.closed) == (sent, False)
    assert cast("tuple[str, str, int]", pair.caller.cipher())[0].startswith(cipher.replace(" 1.3", "_"))
