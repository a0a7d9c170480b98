"""Addresses of engines, of the gateway itself, and of web pages."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from sage_inference import engine_url
from sage_inference.config.errors import ConfigError, Invalid, quote
from sage_inference.netloc import ALL_ADDRESSES, netloc

# Our own grammar: urllib's strips tabs and newlines, and accepts many texts that are no address of an engine.
_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^@/?#]*)@)?"
    r"(?P<host>\[[^\]/?#]*\]|[^:/?#\[\]]*)(?::(?P<port>[^/?#]*))?(?P<path>/[^?#]*)?(?P<rest>[?#].*)?",
    re.DOTALL,
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
_SERVICE = re.compile(r"_[A-Za-z0-9-]+\._(?:tcp|udp)\.", re.IGNORECASE)
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_PORTS = {"http": 80, "https": 443}
# The forms that inet_aton takes: one to four numbers, decimal, octal or hexadecimal.
_SHORT_IPV4 = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
_FORM = "must be http://host:port[/v1], host:port or unix:/path"


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine's address. ``prefix`` is the path before ``/v1``, mostly empty. An IPv6 host has no brackets.

    ``uds``: the path of its Unix socket, if it listens on one. Host and port are then those of its requests.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""
    uds: str = ""

    @property
    def netloc(self) -> str:
        return netloc(self.host, self.port)

    @property
    def base_url(self) -> str:
        return engine_url.base_url(self.scheme, self.host, self.port, self.prefix, self.uds)

    @property
    def name(self) -> str:
        """The default name of an instance at this address. Two different addresses never have the same name."""
        return self.base_url.removeprefix("http://")

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """A key that is equal for two ways of writing the same address."""
        if self.uds:
            return "unix", "", 0, self.uds
        host = self.host.lower().rstrip(".")
        return self.scheme, "127.0.0.1" if host == "localhost" else host, self.port, self.prefix


def parse_backend(text: str) -> Backend:
    """The address in ``http://host:port[/v1]``, ``https://…``, ``host:port`` or ``unix:/path``. Raises ``ConfigError``."""
    try:
        return check_backend(text)
    except Invalid as error:
        raise ConfigError(f"address of an engine {error.problem}", hint=error.hint) from None


def check_backend(text: str) -> Backend:
    """Like ``parse_backend``, but raises ``Invalid``."""
    if _is_unix(text):
        return _unix_socket(text)
    parts = _URL.fullmatch(text)
    if parts and parts["user"] is not None:
        # The text is not quoted, because it may hold a password.
        raise Invalid("must not hold user:password@", "give the engine's key as api_key")
    if not parts or not text.isprintable() or " " in text:
        raise Invalid(f"{_FORM}, not {quote(text)}")
    scheme = (parts["scheme"] or "http").lower()
    if scheme not in _PORTS:
        raise Invalid(f"{_FORM}, not {quote(text)}: {scheme}:// is not supported, only http and https")
    if parts["rest"] or not _PATH.fullmatch(parts["path"] or ""):
        raise Invalid(f"{_FORM}, not {quote(text)}: its end is no part of an engine's address")
    host = parts["host"].strip("[]")
    try:
        port = _port(parts["port"], _PORTS[scheme] if parts["scheme"] else None)
        check_host(parts["host"])
    except Invalid as error:
        raise Invalid(f"{_FORM}, not {quote(text)}: {error.problem}") from None
    prefix = engine_url.without_version(parts["path"] or "")
    return Backend(scheme, host, port, prefix)


def _is_unix(text: str) -> bool:
    """True for ``unix:…``, unless a port follows: then ``unix`` is a host."""
    scheme, colon, rest = text.partition(":")
    return scheme.lower() == "unix" and bool(colon) and not rest[:1].isdigit()


def _unix_socket(text: str) -> Backend:
    if not text.isprintable():
        raise Invalid(f"{_FORM}, not {quote(text)}")
    path = text.partition(":")[2]
    if path.startswith("///"):  # unix:///path, as other programs write it
        path = path[2:]
    try:
        if path.startswith("//"):
            raise ValueError("the path of a Unix socket must be absolute, as in unix:/run/vllm.sock")
        return Backend("http", "localhost", _PORTS["http"], uds=engine_url.socket_path(path))
    except ValueError as error:
        raise Invalid(f"{_FORM}, not {quote(text)}: {error}") from None


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
    """Raises ``Invalid`` unless ``text`` is ``*`` or an ``Origin`` as browsers send it."""
    if text == "*":
        return
    parts = _URL.fullmatch(text)
    if not parts or not parts["scheme"] or parts["path"] or parts["rest"] or parts["user"] is not None:
        raise Invalid(f"must be scheme://host[:port] without a path, not {quote(text)}")
    check_host(parts["host"])
    _port(parts["port"], 0)


def check_collector(text: str) -> None:
    """Raises ``Invalid`` unless ``text`` is the HTTP address of a collector of traces."""
    _check_http(text, "give the collector's key as tracing.headers.authorization")


def check_dashboard(text: str) -> None:
    """Raises ``Invalid`` unless ``text`` is the HTTP address of a Ray dashboard."""
    _check_http(text, "give the dashboard's token as token")


def _check_http(text: str, password_hint: str) -> None:
    parts = _URL.fullmatch(text)
    if parts and parts["user"] is not None:
        # The text is not quoted, because it may hold a password.
        raise Invalid("must not hold user:password@", password_hint)
    known = parts is not None and (parts["scheme"] or "").lower() in _PORTS
    if parts is None or not known or parts["rest"] or not text.isprintable() or " " in text:
        raise Invalid(f"must be http://host:port or https://host, not {quote(text)}")
    check_host(parts["host"])
    _port(parts["port"], 0)


def check_dns_name(text: str) -> None:
    """Raises ``Invalid`` unless ``text`` is ``host:port``, or the name of SRV records: ``_name._tcp.domain``."""
    if text.startswith("_"):
        if not (_SERVICE.match(text) and _HOSTNAME.fullmatch(text)):
            raise Invalid(f"must be _name._tcp.domain, not {quote(text)}", "as _vllm._tcp.engines.lan")
        return
    host, colon, port = text.rpartition(":")
    if not colon or "://" in text:
        raise Invalid(
            f"must be host:port, or _name._tcp.domain, not {quote(text)}",
            "addresses have no port of their own",
        )
    check_host(host)
    _port(port, None)


def canonical_host(text: str) -> str:
    """A host in the form in which hosts are compared: lower case, no brackets, no zone, no final dot.

    An IPv4 address may be written as the system's resolver reads it (``127.1``, ``0x7f000001``) or within an
    IPv6 one (``::ffff:127.0.0.1``). All of these have one form, because listeners and browsers treat them alike.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    bare = bare.lower().removesuffix(".")
    try:
        if _SHORT_IPV4.fullmatch(bare):
            return socket.inet_ntoa(socket.inet_aton(bare))
        address = ipaddress.ip_address(bare.partition("%")[0])
    except (OSError, ValueError):
        return bare
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_address(host: str) -> bool:
    """True for an IP address, False for a name."""
    try:
        ipaddress.ip_address(canonical_host(host))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """True if only this machine's own programs can reach ``host``."""
    name = canonical_host(host)
    if _is_localhost(name):
        return True
    return is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_localhost(name: str) -> bool:
    # Browsers and resolvers answer these names themselves (RFC 6761), so no foreign name server is asked.
    return name == "localhost" or name.endswith(".localhost")


def reaches(backend: Backend, host: str, port: int) -> bool:
    """True if a connection to ``backend`` would arrive at a listener on ``host`` and ``port``."""
    if backend.uds or backend.port != port:
        return False
    if canonical_host(host) in ALL_ADDRESSES:
        return is_loopback(backend.host) or canonical_host(backend.host) in ALL_ADDRESSES
    return bool(_addresses(host) & _addresses(backend.host))


def _addresses(host: str) -> set[str]:
    """The addresses that a connection to ``host`` may reach. A name other than localhost is its own address."""
    name = canonical_host(host)
    return {"127.0.0.1", "::1"} if _is_localhost(name) else {name}
