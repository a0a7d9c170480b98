"""Who may call: the Host and Origin of a request, its key, and what browsers are told of it."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from sage_inference.config.settings import Settings
from sage_inference.gateway.errors import ApiError, loop_detected

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_CACHE = 1024

Headers = Iterable[tuple[bytes, bytes]]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """The rules of one configuration. Keys are held and compared as SHA-256 digests."""

    def __init__(self, settings: Settings, gateway_id: str) -> None:
        self.via = f"sage-{gateway_id}".encode()
        server = settings.server
        # On a loopback address only a page in the user's own browser can carry a foreign name here
        # (DNS rebinding, CVE-2024-28224); elsewhere the machine may have names we don't know.
        self._checks_names = is_loopback(server.host)
        self._names = frozenset({*_LOOPBACK_NAMES, *(name.lower() for name in server.allowed_hosts)})
        self._origins = frozenset(origin.rstrip("/").lower() for origin in server.cors_origins)
        self._any_origin = "*" in self._origins
        self._known_hosts: set[bytes] = set()
        self._keys = {_digest(entry.key.reveal()): entry.name for entry in settings.api_keys}
        self._admin = _digest(settings.admin_key.reveal()) if settings.admin_key else None

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    def check(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The name of the caller's key, "" where none is asked for. Raises ``ApiError`` for who may not."""
        host = origin = key = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"authorization":
                key = value[7:].strip() if value[:7].lower() == b"bearer " else b"?"
            elif name == b"x-api-key":
                key = key or value
            elif name == b"origin":
                origin = value
            elif name == b"via" and self.via in value:
                raise loop_detected()
        if self._checks_names and host not in self._known_hosts:
            self._check_host(host)
        if origin:
            self._check_origin(origin)
        # /admin has rules of its own (see api.admin): this machine's user needs no caller's key.
        if not self._keys or path in OPEN_PATHS or path.startswith("/admin/"):
            return ""
        found = self._keys.get(_digest(key)) if key else None
        if found is None and not (self._admin and key and _digest(key) == self._admin):
            raise _unauthorized(bool(key))
        return found or "admin"

    def is_admin(self, key: bytes) -> bool:
        return self._admin is not None and _digest(key) == self._admin

    def allowed_origin(self, origin: bytes) -> bytes | None:
        """What to answer in ``access-control-allow-origin``, if anything."""
        if self._any_origin:
            return b"*"
        return origin if origin.decode("latin-1").lower() in self._origins else None

    def _check_host(self, host: bytes) -> None:
        name = host.decode("latin-1").lower()
        bare = name.rpartition(":")[0] if not name.endswith("]") and ":" in name else name
        if bare in self._names or is_loopback(bare):
            if len(self._known_hosts) < _CACHE:
                self._known_hosts.add(host)
            return
        raise ApiError(
            403,
            f"Host {name[:100]!r} is not a name of this gateway; allow it with server.allowed_hosts",
            "permission_error",
        )

    def _check_origin(self, origin: bytes) -> None:
        if not self._checks_names or self.allowed_origin(origin) is not None:
            return
        text = origin.decode("latin-1").lower()
        name = _hostname(text)
        if name not in self._names and not is_loopback(name):
            message = f"Origin {text[:100]!r} may not call this gateway; allow it with server.cors_origins"
            raise ApiError(403, message, "permission_error")


def _hostname(origin: str) -> str:
    try:
        name = urlsplit(origin).hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _unauthorized(shown: bool) -> ApiError:
    message = "wrong API key" if shown else "no API key; send it as 'Authorization: Bearer KEY'"
    return ApiError(
        401, message, "authentication_error", "invalid_api_key", headers=((b"www-authenticate", b"Bearer"),)
    )
