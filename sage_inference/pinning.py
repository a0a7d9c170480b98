"""Connections to a server that is known by its certificate's fingerprint, whoever signed it.

That is how programs of this machine reach the running gateway: its pidfile has the fingerprint. No authority, name or
date is checked, because a certificate of the gateway's own has no authority, and an address such as 127.0.0.1 is in
few certificates. Nobody without the key of that very certificate can complete the handshake.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable

Accepts = Callable[[str], bool]


class WrongCertificateError(ssl.SSLCertVerificationError):
    """Another program answers at the address."""

    # OpenSSL sets these in its own errors of this class.
    verify_code = -1
    verify_message = "it is not the running gateway's"


def context(accepts: Accepts) -> ssl.SSLContext:
    """The context of connections to a server whose certificate ``accepts`` takes by its SHA-256, in hexadecimal digits.

    The handshake fails with ``WrongCertificateError`` for any other, before anything was sent.
    """

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check(self.getpeercert(binary_form=True), accepts)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _check(self.getpeercert(binary_form=True), accepts)

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE  # the certificate is compared instead: see above
    made.sslobject_class, made.sslsocket_class = (
        PinnedObject,
        PinnedSocket,
    )  # of all that asyncio and sockets make
    return made


def _check(certificate: bytes | None, accepts: Accepts) -> None:
    found = hashlib.sha256(certificate).hexdigest() if certificate else ""
    if not accepts(found):
        raise WrongCertificateError(1, "the server shows another certificate than the running gateway's")
