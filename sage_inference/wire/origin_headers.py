"""Response headers that the gateway alone may send, and that therefore do not reach callers from engines.

Through the gateway an engine answers in the gateway's name. A browser applies some headers not to the one response
but to the whole origin: it stores a cookie or a policy, wipes its data, lets other origins read, or goes elsewhere.
Those are the gateway's to send. Headers that concern one response only (Content-Security-Policy, X-Frame-Options,
Cache-Control, WWW-Authenticate, Link) and those that API clients read (openai-*, x-ratelimit-*, retry-after) pass.
"""

from __future__ import annotations

from functools import lru_cache

_NAMES = frozenset(
    {
        b"x-request-id",
        # State and policies that a browser keeps for the origin.
        b"set-cookie",
        b"set-cookie2",
        b"set-login",
        b"clear-site-data",
        b"strict-transport-security",
        b"public-key-pins",
        b"public-key-pins-report-only",
        b"expect-ct",
        b"accept-ch",
        b"accept-ch-lifetime",
        b"critical-ch",
        b"origin-agent-cluster",
        b"use-as-dictionary",
        b"secure-session-registration",
        b"sec-session-registration",
        b"activate-storage-access",
        b"observe-browsing-topics",
        # Where it sends the origin's errors.
        b"nel",
        b"report-to",
        b"reporting-endpoints",
        # Rights of other origins and of workers.
        b"timing-allow-origin",
        b"service-worker-allowed",
        b"x-permitted-cross-domain-policies",
        # Another place: a client that followed it would leave the gateway, with its prompt and its key.
        b"location",
        b"refresh",
        b"alt-svc",
        # The same for a proxy before the gateway: nginx and others would send a file of their own instead.
        b"x-accel-redirect",
        b"x-sendfile",
    }
)
_PREFIXES = (b"x-sage-", b"access-control-", b"cross-origin-", b"attribution-reporting-", b"ad-auction-")


@lru_cache(1024)  # heads that differ in one value, such as a time, are read each time; their names repeat
def is_gateways_own(name: bytes) -> bool:
    """True for a header that only the gateway may send. ``name`` is in lower case."""
    return name in _NAMES or name.startswith(_PREFIXES)
