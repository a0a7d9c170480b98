"""Addresses: of engines, of the gateway itself, of web pages."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sage_inference.config.errors import ConfigError, Invalid, quote

# A whole-text grammar of our own: urllib's strips tabs and newlines, and takes much that no engine listens on.
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^@/?#]*)@)?"
    r"(?P<host>\[[^\]/?#]*\]|[^:/?#\[\]]*)(?::(?P<port>[^/?#]*))?(?P<path>/[^?#]*)?(?P<rest>[?#].*)?",
    re.DOTALL,
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_PORTS = {"http": 80, "https": 443}
_FORM = "must be http://host:port[/v1] or host:port"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where an engine listens. ``prefix`` is the path before ``/v1``, mostly empty; IPv6 without brackets."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.prefix}"

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """Equal for two ways of writing the same address."""
        host = self.host.lower().rstrip(".")
        return self.scheme, "127.0.0.1" if host == "localhost" else host, self.port, self.prefix


def parse_backend(text: str) -> Backend:
    """The address in ``http://host:port[/v1]``, ``https://…`` or ``host:port``. Raises ``ConfigError``."""
    try:
        return check_backend(text)
    except Invalid as error:
        raise ConfigError(f"address of an engine {error.problem}", hint=error.hint) from None


def check_backend(text: str) -> Backend:
    """As ``parse_backend``; raises ``Invalid``."""
    parts = _URL.fullmatch(text)
    if parts and parts["user"] is not None:
        # Not quoted: it may hold a password.
        raise Invalid("must not hold user:password@", "give the engine's key as api_key")
    if not parts or not text.isprintable() or " " in text:
        raise Invalid(f"{_FORM}, not {quote(text)}")
    scheme = (parts["scheme"] or "http").lower()
    if scheme not in _PORTS:
        raise Invalid(f"{_FORM}, not {quote(text)}: {scheme}:// is not spoken, only http and https")
    if parts["rest"] or not _PATH.fullmatch(parts["path"] or ""):
        raise Invalid(f"{_FORM}, not {quote(text)}: it ends in what an address of an engine has not")
    host = parts["host"].strip("[]")
    try:
        port = _port(parts["port"], _PORTS[scheme] if parts["scheme"] else None)
        check_host(parts["host"])
    except Invalid as error:
        raise Invalid(f"{_FORM}, not {quote(text)}: {error.problem}") from None
    prefix = (parts["path"] or "").rstrip("/").removesuffix("/v1").rstrip("/")
    return Backend(scheme, host, port, prefix)


def _port(text: str | None, default: int | None) -> int:
    if text is None:
        if default is None:
            raise Invalid("the port is missing")
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise Invalid("the port is not a number from 1 to 65535")
    return int(text)


def check_host(text: str) -> None:
    """Raises ``Invalid`` unless ``text`` is a host name or an IP address (IPv6 with brackets or without)."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not bare:
        raise Invalid("the host is missing")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # A name of digits and dots only is a mistyped IPv4 address.
        if bare != text or not _HOSTNAME.fullmatch(bare) or re.fullmatch(r"[0-9.]+", bare):
            raise Invalid(f"must be a host name or an IP address alone, not {quote(text)}") from None


def check_origin(text: str) -> None:
    """Raises ``Invalid`` unless ``text`` is what a browser sends as ``Origin``, or ``*``."""
    if text == "*":
        return
    parts = _URL.fullmatch(text)
    if not parts or not parts["scheme"] or parts["path"] or parts["rest"] or parts["user"] is not None:
        raise Invalid(f"must be scheme://host[:port] without a path, not {quote(text)}")
    check_host(parts["host"])
    _port(parts["port"], 0)


def is_loopback(host: str) -> bool:
    """True where only this machine's own programs can reach ``host``."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def reaches(backend: Backend, host: str, port: int) -> bool:
    """True where a connection to ``backend`` would arrive at a listener on ``host`` and ``port``."""
    if backend.port != port:
        return False
    listens, asked = host.strip("[]").lower(), backend.host.lower().rstrip(".")
    if listens in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return is_loopback(asked) or asked in ("0.0.0.0", "::")  # noqa: S104
    same = {"localhost": {"127.0.0.1", "::1", "localhost"}}
    return bool(same.get(listens, {listens}) & same.get(asked, {asked}))
