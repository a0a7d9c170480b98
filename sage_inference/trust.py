"""The trusted certificates. Probes, relay, clients and benchmark all use these.

They are the system's store, and an instance's ``ca_file`` beside it. Certificates that SSL_CERT_FILE and SSL_CERT_DIR
name replace the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

# ``ssl`` is imported only when TLS is used, because commands such as ``status`` must start fast.

Stamp = tuple[object, ...]

_REMEDY = (
    "trust it with SSL_CERT_FILE=FILE in the environment of this program, in the system's store,"
    " or for an instance of the gateway with ca_file"
)
# Values of OpenSSL's X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})


class TrustError(OSError):
    """Certificates to trust cannot be read. The message names the setting that refers to them, and the reason."""


def context(ca_file: str | None = None) -> ssl.SSLContext:
    """The context of connections that verify the server. Raises ``TrustError``.

    It is cached, because loading the system's store takes 20 ms. ``ca_file`` is a path to certificates in PEM form.
    """
    return _context(stamp(ca_file), ca_file)


def stamp(ca_file: str | None = None) -> Stamp:
    """A value that changes with the trusted certificates, even if only the content of the same files changes."""
    names = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), ca_file)
    return tuple((name, _state(name)) for name in names)


def check_ca_file(ca_file: str) -> None:
    """Raises ``TrustError`` unless the file holds certificates. The message begins with its name."""
    import ssl

    _add(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca_file)


def explain(error: BaseException) -> str | None:
    """The reason why a server is not trusted, and the remedy. None for an error of another kind."""
    import ssl

    for cause in _causes(error):
        if isinstance(cause, TrustError):
            return str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrust(cause)
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return "it does not speak TLS; is its address http:// rather than https://?"
    return None


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    code, words = error.verify_code, (error.verify_message or "").removesuffix(".")
    if code in _UNKNOWN_ISSUER:
        return f"its certificate is not trusted ({words}); {_REMEDY}"
    if code in _WRONG_NAME:
        return f"its certificate is for another name ({words}); use a name that the certificate holds"
    if code == _EXPIRED:
        return f"its certificate is not valid any more ({words}); renew it on the server, or set this clock"
    if code == _NOT_YET_VALID:
        return (
            f"its certificate is not valid yet ({words}); set the clock of this machine or of its authority"
        )
    return f"its certificate is not accepted ({words or error})"


@lru_cache(maxsize=32)
def _context(trusted: Stamp, ca_file: str | None) -> ssl.SSLContext:
    """``trusted`` is the key of the cache."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Python 3.13 has other default flags. A private authority's certificates often lack an extension that strict
    # checks require, and a ``ca_file`` may have an intermediate authority only.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load_store(made)
    if ca_file:
        _add(made, ca_file)
    return made


def _load_store(made: ssl.SSLContext) -> None:
    import ssl

    paths = ssl.get_default_verify_paths()
    named_file, named_dir = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if named_file:
        _load(made, "SSL_CERT_FILE", named_file, cafile=named_file)
    if named_dir:
        if not any(Path(one).is_dir() for one in named_dir.split(os.pathsep)):
            raise TrustError(f'SSL_CERT_DIR names "{named_dir}": no such directory')
        _load(made, "SSL_CERT_DIR", named_dir, capath=named_dir)
    if not named_file and os.path.isfile(paths.openssl_cafile):  # noqa: PTH113
        _load(made, "the system's store", paths.openssl_cafile, cafile=paths.openssl_cafile)
    if not named_dir and os.path.isdir(paths.openssl_capath):  # noqa: PTH112
        made.load_verify_locations(capath=paths.openssl_capath)
    if os.name == "nt":
        made.load_default_certs()
    if not (named_file or named_dir or _has_store(paths)):
        # Slim images have no store. The list of public authorities comes with httpx.
        import certifi

        made.load_verify_locations(cafile=certifi.where())


def _has_store(paths: ssl.DefaultVerifyPaths) -> bool:
    if os.name == "nt" or os.path.isfile(paths.openssl_cafile):  # noqa: PTH113
        return True
    return os.path.isdir(paths.openssl_capath) and any(os.scandir(paths.openssl_capath))  # noqa: PTH112


def _load(
    made: ssl.SSLContext, source: str, name: str, *, cafile: str | None = None, capath: str | None = None
) -> None:
    import ssl

    try:
        made.load_verify_locations(cafile, capath)
    except ssl.SSLError:
        raise TrustError(f'{source} names "{name}": it holds no certificates in PEM form') from None
    except OSError as error:
        raise TrustError(f'{source} names "{name}": {_words(error)}') from None


def _add(made: ssl.SSLContext, ca_file: str) -> None:
    import ssl

    try:
        # Comments beside the certificates may be in any encoding.
        text = Path(ca_file).expanduser().read_bytes().decode("ascii", "ignore")
    except (OSError, ValueError, RuntimeError) as error:
        raise TrustError(f'file "{ca_file}" is not readable: {_words(error)}') from None
    if "-----BEGIN" not in text:
        raise TrustError(f'file "{ca_file}" holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)')
    try:
        made.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        what = (
            "a certificate that is damaged"
            if "BEGIN CERTIFICATE" in text
            else "no certificate, only other PEM"
        )
        raise TrustError(f'file "{ca_file}" holds {what}') from None


def _state(name: str | None) -> object:
    """The present identity of the file at a path. None if it cannot be read, which is reported when it is loaded."""
    if not name:
        return None
    try:
        found = Path(name).expanduser().stat()
    except (OSError, ValueError, RuntimeError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _words(error: BaseException) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
