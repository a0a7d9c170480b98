"""The checks on a request's Host, Origin and key, and the origins that browsers may call from."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from sage_inference.config.address import canonical_host, is_address, is_loopback
from sage_inference.config.key_hash import digest_in, id_of_digest, key_digest
from sage_inference.config.settings import ApiKeySettings, Settings
from sage_inference.gateway.errors import ApiError, loop_detected, no_admin_key, wrong_admin_key
from sage_inference.gateway.relay.heads import KEYS
from sage_inference.gateway.tenants import tenants
from sage_inference.gateway.ui.sessions import Sessions

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
_CACHE = 1024


SESSION_PATH = "/ui/session"  # opens and closes the sessions in which the page calls /admin


def is_admin_path(path: str) -> bool:
    return path == "/admin" or path.startswith("/admin/")


def is_open(path: str) -> bool:
    """Whether the path needs no key. The page shows nothing before it has a session."""
    return path in OPEN_PATHS or path == "/ui" or path.startswith("/ui/")


class Guard:
    """The rules of one configuration. Keys are held and compared as SHA-256 digests.

    ``admin_token`` is the run's own credential for ``/admin``, beside ``admin_key``. ``sessions`` are those of the page.
    """

    def __init__(
        self,
        settings: Settings,
        gateway_id: str,
        admin_token: str | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._sessions = sessions or Sessions(time.monotonic)
        self.via = f"sage-{gateway_id}".encode()
        server = settings.server
        # On a loopback address only a page in the user's own browser can carry a foreign name
        # (DNS rebinding, CVE-2024-28224). Elsewhere the machine may have names that are not configured.
        self._is_local = is_loopback(server.host)
        self._names = frozenset(canonical_host(name) for name in (server.host, *server.allowed_hosts))
        origins = {origin.rstrip("/").lower() for origin in server.cors_origins}
        self._any_origin = "*" in origins
        self._origins = frozenset(origins - {"*"})
        self._known_hosts: set[bytes] = set()
        self._keys = {_digest_of(key): name for name, key in tenants(settings.api_keys)}
        self._admin_key = key_digest(settings.admin_key.reveal()) if settings.admin_key else None
        self._admin_token = key_digest(admin_token) if admin_token else None

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    @property
    def has_tenants(self) -> bool:
        """Whether callers with different keys share the engines."""
        return len(set(self._keys.values())) + (self._admin_key is not None and self.has_keys) > 1

    def has_keys_of(self, other: Guard) -> bool:
        """Whether both have the same keys."""
        return self._keys == other._keys and self._admin_key == other._admin_key

    def key_ids(self) -> list[tuple[str, str]]:
        """Each key as the begin of its digest, and its name."""
        return [(id_of_digest(known), name) for known, name in self._keys.items()]

    def lacks_keys_of(self, other: Guard) -> bool:
        """Whether a key of ``other`` is not valid any more."""
        return not other._keys.keys() <= self._keys.keys() or self._admin_key != other._admin_key

    def check(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The name of the caller's key, "" where none is needed. Raises ``ApiError`` for a refused request."""
        host: bytes | None = None
        origin = b""
        shown: tuple[bytes, ...] = ()
        for name, value in headers:
            if name == b"host":
                host = value
            elif name in KEYS:
                shown += _credential(name, value)
            elif name == b"origin":
                origin = value
            elif name == b"via" and self.via in value:
                raise loop_detected()
        is_admin = is_admin_path(path)
        is_private = is_admin or path == SESSION_PATH
        # Browsers always send Host. HTTP/1.0 allows to leave it out; in HTTP/1.1 the parser refuses that.
        if host is not None and host not in self._known_hosts and (self._is_local or is_private):
            self._check_host(host)
        if origin and not (
            is_private and self._is_own(origin, host) and (not is_admin or self._shows_session(shown))
        ):
            self._check_origin(origin, is_private)
        if is_admin:
            self._check_admin(shown)
            return ""
        if not self._keys or is_open(path):
            return ""
        return self._owner(shown)

    def _owner(self, shown: tuple[bytes, ...]) -> str:
        """The name of the first right key. A wrong key beside it, such as a proxy's, is ignored."""
        for key in shown:
            digest = key_digest(key)
            if digest in self._keys:
                return self._keys[digest]
            if self._admin_key and _same(digest, self._admin_key):
                return "admin"
            if self._is_session(digest):
                return "admin"
        raise _unauthorized(bool(shown))

    def _check_admin(self, shown: tuple[bytes, ...]) -> None:
        """Check for ``admin_key`` or the run's token. A caller's key does not open ``/admin``.

        The peer's address proves nothing: another user's program and a reverse proxy on this machine come from
        loopback too, and a plain proxy adds no header by which it could be recognised.
        """
        if not shown:
            raise no_admin_key()
        if not any(self.is_admin(key) for key in shown):
            raise wrong_admin_key()

    def is_admin(self, key: bytes) -> bool:
        """True for ``admin_key``, the run's token, and the token of a session."""
        return self.is_key_of_admin(key) or self._is_session(key_digest(key))

    def is_key_of_admin(self, key: bytes) -> bool:
        """True for ``admin_key`` and the run's token."""
        return self._opens_admin(key_digest(key))

    def _opens_admin(self, digest: bytes) -> bool:
        return any(_same(digest, known) for known in (self._admin_key, self._admin_token) if known)

    def _is_session(self, digest: bytes) -> bool:
        """Whether the session is open, and the key that opened it is still right."""
        found, key = self._sessions.key_of(digest)
        return found and (key is None or self._opens_admin(key))

    def _shows_session(self, shown: Sequence[bytes]) -> bool:
        return any(self._is_session(key_digest(each)) for each in shown)

    def _is_own(self, origin: bytes, host: bytes | None) -> bool:
        """Whether the page that calls came from this gateway, under the name by which it calls."""
        scheme, found, name = origin.lower().partition(b"://")
        return bool(found) and scheme in (b"http", b"https") and host is not None and name == host.lower()

    def allowed_origin(self, origin: bytes) -> bytes | None:
        """The value of ``access-control-allow-origin`` in the answer, if any."""
        if self._any_origin:
            return b"*"
        return origin if origin.decode("latin-1").lower() in self._origins else None

    def _check_host(self, host: bytes) -> None:
        text = host.decode("latin-1")
        name = canonical_host(text.rpartition(":")[0] if not text.endswith("]") and ":" in text else text)
        # An address cannot be rebound. On a loopback bind, though, it would be that of a forwarded port.
        if name in self._names or is_loopback(name) or (is_address(name) and not self._is_local):
            if len(self._known_hosts) < _CACHE:
                self._known_hosts.add(host)
            return
        raise ApiError(
            403,
            f"Host {name[:100]!r} is not a name of this gateway; allow it with server.allowed_hosts",
            "permission_error",
        )

    def _check_origin(self, origin: bytes, is_admin: bool) -> None:
        text = origin.decode("latin-1").lower()
        if text in self._origins:
            return
        if is_admin:
            # Pages of this machine, and pages that ``*`` lets call the API, are refused as well.
            message = (
                f"Origin {text[:100]!r}: a web page may not call /admin, except the gateway's own with its session; "
                f"list its origin by name in server.cors_origins if it must"
            )
            raise ApiError(403, message, "permission_error")
        if not self._is_local or self._any_origin:
            return
        name = canonical_host(_hostname(text))
        if name not in self._names and not is_loopback(name):
            message = f"Origin {text[:100]!r} may not call this gateway; allow it with server.cors_origins"
            raise ApiError(403, message, "permission_error")


def _credential(name: bytes, value: bytes) -> tuple[bytes, ...]:
    """The key in a header, or nothing. A proxy's own ``Authorization: Basic`` is not a key."""
    if name == b"authorization":
        value = value[7:].strip() if value[:7].lower() == b"bearer " else b""
    return (value,) if value else ()


def credentials(headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """All keys and tokens that a request shows."""
    return tuple(key for name, value in headers if name in KEYS for key in _credential(name, value))


def _hostname(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _digest_of(key: ApiKeySettings) -> bytes:
    if key.key_hash is not None:
        return digest_in(key.key_hash)
    assert key.key is not None  # checked with the configuration
    return key_digest(key.key.reveal())


def _unauthorized(shown: bool) -> ApiError:
    message = "wrong API key" if shown else "no API key; send it as 'Authorization: Bearer KEY'"
    return ApiError(
        401, message, "authentication_error", "invalid_api_key", headers=((b"www-authenticate", b"Bearer"),)
    )
