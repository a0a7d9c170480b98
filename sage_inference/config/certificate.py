"""The gateway's own certificate: ``server.tls_cert`` and ``server.tls_key``, read, checked and explained."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from sage_inference.config.errors import ConfigError, Remark
from sage_inference.config.exposure import is_open_to_all
from sage_inference.config.paths import expanded
from sage_inference.config.settings import ServerSettings

_CERT, _KEY = "server.tls_cert", "server.tls_key"
_LARGEST = 1 << 20  # a thousand times a long chain
_LAST_PART = 0.1  # of a certificate's life, in which it should have been renewed
_BEGIN = "-----BEGIN "
_BEGIN_CERTIFICATE, _END_CERTIFICATE = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME: the times are compared here, with their date
_BUNDLES = (".pfx", ".p12")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key. ``sha256`` is the fingerprint, in hexadecimal digits, and the times are in seconds."""

    context: ssl.SSLContext
    sha256: str
    names: tuple[str, ...]
    begins_at: float
    ends_at: float


class CertificateError(ConfigError):
    """The files of the certificate cannot be used."""


def check(server: ServerSettings, served: str | None = None) -> None:
    """Raises ``CertificateError`` unless a gateway can start with the files.

    ``served`` is the fingerprint of a certificate that may be out of date, because a running gateway has it already.
    """
    if server.tls_cert is not None:
        found = read(server)
        if found.sha256 != served:
            check_time(found, server)
    elif server.tls_key is not None:
        raise CertificateError(
            f"{_KEY} is set without {_CERT}", key=_KEY, hint=f"name the certificate in {_CERT}"
        )


def check_time(found: Certificate, server: ServerSettings) -> None:
    """Raises ``CertificateError`` if the certificate is not valid now."""
    now = time.time()
    if now > found.ends_at:
        raise CertificateError(
            f'{_CERT}: the certificate in "{server.tls_cert}" expired on {day(found.ends_at)}',
            key=_CERT,
            hint="renew it, or set the clock of this machine",
        )
    if now < found.begins_at:
        raise CertificateError(
            f'{_CERT}: the certificate in "{server.tls_cert}" is not valid before {day(found.begins_at)}',
            key=_CERT,
            hint="set the clock of this machine, or wait until then",
        )


def day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def remarks(server: ServerSettings) -> Iterator[Remark]:
    """Warnings about files that can be used."""
    if server.tls_cert is None:
        return
    key = server.tls_key or server.tls_cert
    if is_open_to_all(key):
        yield Remark(
            f'every user of this machine can read the private key in "{key}"',
            f"only its owner should: chmod 600 {key}",
        )
    try:
        yield from remarks_on_time(read(server), server)
    except CertificateError:
        return  # ``check`` reports it


def remarks_on_time(found: Certificate, server: ServerSettings) -> Iterator[Remark]:
    """A warning of the certificate's end, if that is near or past."""
    left = found.ends_at - time.time()
    if left < 0:
        yield Remark(f'the certificate in "{server.tls_cert}" expired on {day(found.ends_at)}', "renew it")
    elif left < (found.ends_at - found.begins_at) * _LAST_PART:
        yield Remark(
            f'the certificate in "{server.tls_cert}" expires on {day(found.ends_at)}',
            "renew it; a running gateway takes new files up by itself",
        )


def read(server: ServerSettings) -> Certificate:
    """The certificate and its key, proved to belong together. Raises ``CertificateError``. Takes some milliseconds."""
    cert = _readable(_CERT, str(server.tls_cert))
    key = cert if server.tls_key is None else _readable(_KEY, server.tls_key)
    leaf = _first_certificate(cert, str(server.tls_cert))
    if "PRIVATE KEY-----" not in key.text:
        _lacks_key(server, key)
    context = _new_context()
    try:
        context.load_cert_chain(cert.path, key.path, password=_refuse_password)
    except _PasswordError:
        raise _protected(key) from None
    except ssl.SSLError as error:
        raise _unusable(error, cert, key) from None
    except OSError as error:  # it went away meanwhile
        raise CertificateError(f"{_CERT}: {_reason(error)}", key=_CERT) from None
    return _examined(context, leaf, server)


@dataclass(frozen=True, slots=True)
class _File:
    setting: str
    named: str
    path: Path
    text: str = field(repr=False)


class _PasswordError(Exception):
    pass


def _refuse_password() -> str:
    """Called by OpenSSL for a protected key. Without it OpenSSL would ask on the terminal."""
    raise _PasswordError


def _readable(setting: str, named: str) -> _File:
    here = f'{setting}: file "{named}"'
    try:
        path = expanded(named)
        # Without O_NONBLOCK, opening a FIFO at this path would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CertificateError(f"{here} is no regular file", key=setting)
            raw = file.read(_LARGEST + 1)
    except PermissionError:
        raise CertificateError(
            f"{here} is not readable: permission denied",
            key=setting,
            hint="give the gateway's user the right to read it, and its folder",
        ) from None
    except (OSError, ValueError) as error:
        raise CertificateError(f"{here} is not readable: {_reason(error)}", key=setting) from None
    if len(raw) > _LARGEST:
        raise CertificateError(f"{here} is larger than 1 MiB, which no certificate is", key=setting)
    return _File(setting, named, path, raw.decode("ascii", "replace"))


def _first_certificate(cert: _File, named: str) -> bytes:
    """The server's own certificate, which is the first in its file, in DER form."""
    here = f'{_CERT}: file "{named}"'
    begin = cert.text.find(_BEGIN_CERTIFICATE)
    end = cert.text.find(_END_CERTIFICATE, begin)
    if begin < 0:
        if _BEGIN in cert.text:
            kind = cert.text.partition(_BEGIN)[2].partition("-----")[0].lower()[:40]
            raise CertificateError(f"{here} holds no certificate, only: {kind}", key=_CERT)
        form = "pkcs12 -nodes" if cert.path.suffix.lower() in _BUNDLES else "x509 -inform der"
        command = f"openssl {form} -in {named} -out NEW.pem"
        raise CertificateError(
            f"{here} holds no certificate in PEM form ({_BEGIN_CERTIFICATE})",
            key=_CERT,
            hint=f"if it has another form, convert it: {command}" if cert.text else "the file is empty",
        )
    with suppress(ValueError):
        if end > 0:
            return ssl.PEM_cert_to_DER_cert(cert.text[begin : end + len(_END_CERTIFICATE)])
    raise CertificateError(f"{here} holds a certificate that is damaged", key=_CERT)


def _lacks_key(server: ServerSettings, key: _File) -> NoReturn:
    if server.tls_key is None:
        raise CertificateError(
            f'{_CERT}: file "{server.tls_cert}" holds no private key beside the certificate',
            key=_KEY,
            hint=f"name the file of the key in {_KEY}",
        )
    raise CertificateError(
        f'{_KEY}: file "{key.named}" holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)', key=_KEY
    )


def _protected(key: _File) -> CertificateError:
    return CertificateError(
        f'{key.setting}: the key in "{key.named}" is protected by a password, which a gateway cannot be asked for',
        key=key.setting,
        hint=f"write it without one, readable by the gateway's user only: openssl pkey -in {key.named} -out NEW.key",
    )


def _unusable(error: ssl.SSLError, cert: _File, key: _File) -> CertificateError:
    reason = error.reason or ""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return CertificateError(
            f'{key.setting}: the key in "{key.named}" does not belong to the certificate in "{cert.named}"',
            key=key.setting,
            hint="the gateway's own certificate must be the first in its file, before those of its authorities",
        )
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "MD_TOO_WEAK"):
        return CertificateError(
            f'{_CERT}: the certificate in "{cert.named}" is too weak for this system\'s OpenSSL'
            f" ({reason.lower().replace('_', ' ')})",
            key=_CERT,
            hint="make one with a key for ECDSA P-256, or for RSA of 2048 bits or more",
        )
    try:
        # The two files are loaded apart, because the error does not name the one at fault.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=cert.text)
    except (ssl.SSLError, ValueError):
        return CertificateError(
            f'{_CERT}: file "{cert.named}" holds a certificate that is damaged', key=_CERT
        )
    return CertificateError(
        f'{key.setting}: the key in "{key.named}" is damaged, or of a kind that TLS does not use',
        key=key.setting,
        hint="openssl pkey -noout -check -in FILE checks it",
    )


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Every TLS 1.3 caller has this curve (RFC 8446 section 9.1). By default OpenSSL also takes the group ffdhe8192 if a
    # caller wants it, which holds up all others for 0.14 s (CVE-2002-20001). Python before 3.15 can name one curve only.
    context.set_ecdh_curve("prime256v1")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _examined(context: ssl.SSLContext, leaf: bytes, server: ServerSettings) -> Certificate:
    """Shake hands with ``context`` in memory: that proves the pair, and returns what callers will see."""
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname = False
    caller.load_verify_locations(cadata=leaf)  # exactly this certificate is trusted
    caller.verify_flags &= ~ssl.VERIFY_X509_STRICT
    caller.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks, answers = caller.wrap_bio(one, other), context.wrap_bio(other, one, server_side=True)
    try:
        for side in (asks, answers) * 3:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        seen, raw = asks.getpeercert(), asks.getpeercert(binary_form=True)
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
        raise CertificateError(
            f'{_CERT}: the certificate in "{server.tls_cert}" cannot serve: {str(why).lower().replace("_", " ")}',
            key=_CERT,
        ) from None
    assert seen is not None
    assert raw is not None
    return Certificate(
        context,
        hashlib.sha256(raw).hexdigest(),
        _names(seen),
        ssl.cert_time_to_seconds(str(seen["notBefore"])),
        ssl.cert_time_to_seconds(str(seen["notAfter"])),
    )


def _names(seen: Mapping[str, Any]) -> tuple[str, ...]:
    """The names and addresses that the certificate holds."""
    return tuple(name for kind, name in seen.get("subjectAltName", ()) if kind in ("DNS", "IP Address"))


def _reason(error: OSError | ValueError) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
