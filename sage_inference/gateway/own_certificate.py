"""The certificate that callers see: for new connections always the newest pair of files that can be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sage_inference.config import certificate
from sage_inference.config.certificate import Certificate, CertificateError
from sage_inference.config.errors import Remark
from sage_inference.config.paths import expanded
from sage_inference.config.settings import ServerSettings
from sage_inference.gateway.error_formats import ErrorFormat
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.heads import STATUS_LINES
from sage_inference.wire.isolation import report
from sage_inference.wire.tls import TlsTransport

LOOK_S = 2.0  # between two looks at the files
_PLAIN = ApiError(400, "this port speaks HTTPS only: write the address with https://", code="https_required")

Announce = Callable[[str], None]
Stamp = tuple[object, ...]

log = logging.getLogger("sage_inference.server")


class OwnCertificate:
    """The certificate in use, and the watch on its files.

    Files that are replaced are taken for new connections, and those that are open live on. A pair that does not
    belong together, because only one half was replaced so far, is logged once, and the one in use stays.
    ``announce`` gets the fingerprint of each certificate before a caller can see it.
    """

    def __init__(self, server: ServerSettings, announce: Announce) -> None:
        """Raises ``CertificateError``."""
        self._server = server
        self._announce = announce
        self._complaint = ""
        self._stamp = _stamp(server)
        self.current = certificate.read(server)
        self._plain_refusal = _plain_refusal()
        self._remarks = self.remarks()  # those that were logged; the start logs the first ones
        announce(self.current.sha256)

    def transport(self, protocol: asyncio.Protocol) -> TlsTransport:
        """The TLS of a connection that was just accepted."""
        return TlsTransport(protocol, self.current.context, self._plain_refusal)

    def document(self) -> dict[str, Any]:
        """The certificate in the document of ``status``."""
        found = self.current
        return {
            "file": str(expanded(str(self._server.tls_cert)).absolute()),
            "sha256": found.sha256,
            "names": list(found.names),
            "valid_until": certificate.day(found.ends_at),
        }

    def remarks(self) -> list[Remark]:
        """A warning of the certificate's end, if that is near or past."""
        return list(certificate.remarks_on_time(self.current, self._server))

    def take(self, server: ServerSettings) -> bool:
        """Take the files of new settings, and return whether callers see another certificate. Raises ``CertificateError``."""
        before, stamp = self.current.sha256, _stamp(server)
        if stamp == self._stamp and _named(server) == _named(self._server):
            return False  # a new context would make the callers' tickets for a short handshake invalid
        self._use(server, stamp, _usable(server, before))
        return self.current.sha256 != before

    async def watch(self) -> None:
        """Look at the files every two seconds, and take those that were replaced."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
                self._log_remarks()
            except Exception as error:  # for example if no thread can be started; the next look may have one
                report(error, "the look at the certificate")

    async def look(self) -> None:
        """Take the files if they were replaced. They are read on a thread, because a file system may hang."""
        server = self._server
        stamp = await asyncio.to_thread(_stamp, server)
        if stamp == self._stamp:
            return
        try:
            found = await asyncio.to_thread(_usable, server, self.current.sha256)
        except CertificateError as error:
            if self._server is server and str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("the new files of the certificate are not taken, the old ones stay: %s", error)
            return
        if self._server is server:  # otherwise a reload came first
            self._use(server, stamp, found)

    def _log_remarks(self) -> None:
        """Warn once when the certificate's end comes near, and once when it has come."""
        before, self._remarks = self._remarks, self.remarks()
        if self._remarks != before:
            for remark in self._remarks:
                log.warning("%s", remark)

    def _use(self, server: ServerSettings, stamp: Stamp, found: Certificate) -> None:
        if found.sha256 != self.current.sha256:
            self._announce(found.sha256)
            log.info("new certificate, valid until %s", certificate.day(found.ends_at))
        self._server, self._stamp, self.current = server, stamp, found
        self._complaint = ""


def _usable(server: ServerSettings, in_use: str) -> Certificate:
    """The certificate in the files. One that is in use may be out of date: refusing it would mend nothing."""
    found = certificate.read(server)
    if found.sha256 != in_use:
        certificate.check_time(found, server)
    return found


def _named(server: ServerSettings) -> tuple[str | None, ...]:
    return server.tls_cert, server.tls_key


def _stamp(server: ServerSettings) -> Stamp:
    """A value that changes when a file is written or replaced, also behind a symbolic link."""
    found: list[object] = []
    for named in _named(server):
        try:
            seen = expanded(named or "").stat()
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size))
    return tuple(found)


def _plain_refusal() -> bytes:
    """The answer to a caller that speaks HTTP without TLS."""
    body = ErrorFormat().body(_PLAIN, b"")
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
    return b"%b%b\r\n%b" % (STATUS_LINES[_PLAIN.status], head, body)
