"""Certificates of a private authority, made by the ``openssl`` program, and a TLS front for an engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.wire import Caller

LOCAL = "DNS:localhost,IP:127.0.0.1"
_AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"


@dataclass(frozen=True)
class Certificate:
    """``chain`` is what a server shows: its certificate, and those between it and the root."""

    chain: Path
    key: Path


class Authority:
    """A root or an intermediate authority; its files are in ``folder``."""

    def __init__(self, folder: Path, name: str, parent: Authority | None = None) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl program is not installed")
        self._folder = folder
        self._name = name
        self._parent = parent
        self.file = folder / f"{name}.pem"
        self._key = self._new_key(name)
        if parent is None:
            request = ("req", "-x509", "-new", "-key", self._key, "-subj", f"/CN={name}", "-days", "9")
            _openssl(*request, "-out", self.file)
        else:
            parent._sign(self._key, name, self.file, _AUTHORITY)

    def issue(self, names: str = LOCAL, days: int = 9) -> Certificate:
        """A server's certificate; with less than no ``days`` it is expired."""
        stem = f"{self._name}-{names}-{days}".replace(":", "").replace(",", "-").replace("*", "any")
        chain, key = self._folder / f"{stem}.pem", self._new_key(stem)
        self._sign(key, stem[:60], chain, f"subjectAltName={names}\n", days)
        if self._parent is not None:
            chain.write_bytes(chain.read_bytes() + self.file.read_bytes())
        return Certificate(chain, key)

    def hashed_folder(self) -> Path:
        """A folder as SSL_CERT_DIR names it: files are found there by the hash of their subject."""
        folder = self._folder / f"{self._name}-hashed"
        folder.mkdir(exist_ok=True)
        digest = _openssl("x509", "-in", self.file, "-noout", "-hash").strip()
        (folder / f"{digest}.0").write_bytes(self.file.read_bytes())
        return folder

    def _new_key(self, name: str) -> Path:
        key = self._folder / f"{name}.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        return key

    def _sign(self, key: Path, subject: str, out: Path, extensions: str, days: int = 9) -> None:
        request, file = out.with_suffix(".csr"), out.with_suffix(".ext")
        file.write_text(extensions)
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={subject}", "-out", request)
        by = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        _openssl("x509", "-req", "-in", request, *by, "-extfile", file, "-out", out)


def _openssl(*args: str | Path) -> str:
    return subprocess.run(
        ["openssl", *map(str, args)], check=True, capture_output=True, text=True, timeout=60
    ).stdout


class TlsFront:
    """Speaks TLS before an engine, as nginx does; ``certificate`` may be changed while it runs."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.show(certificate)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def show(self, certificate: Certificate) -> None:
        self._context.load_cert_chain(certificate.chain, certificate.key)

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except OSError:
            writer.close()
        finally:
            self._tasks.discard(task)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@contextlib.contextmanager
def tls_front(port: int, certificate: Certificate) -> Iterator[TlsFront]:
    front = TlsFront(port, certificate)
    try:
        yield front
    finally:
        front.close()


def self_signed(folder: Path, name: str = "gateway", *, kind: str = "ec", days: int = 9) -> Certificate:
    """A certificate that signs itself, as a lab makes one."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    keys = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa": ("rsa:2048",)}[kind]
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={LOCAL}")
    _openssl(
        "req", "-x509", "-newkey", *keys, "-nodes", "-keyout", key, "-out", chain, "-days", str(days), *names
    )
    return Certificate(chain, key)


def trusting(*certificates: Certificate) -> ssl.SSLContext:
    """The context of a caller that trusts these alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(certificate.chain)
    return context


class TlsCaller(Caller):
    """A caller that speaks HTTP by hand over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        super().__init__(port)
        self.tls = self.sock = context.wrap_socket(
            self.sock, server_hostname="localhost", suppress_ragged_eofs=False, session=session
        )

    def send_singly(self, data: bytes) -> None:
        """Each byte in a record of its own."""
        for byte in data:
            self.tls.send(bytes([byte]))

    @property
    def sha256(self) -> str:
        """The fingerprint of the certificate that the gateway shows here."""
        shown = self.tls.getpeercert(binary_form=True)
        assert shown is not None
        return hashlib.sha256(shown).hexdigest()
