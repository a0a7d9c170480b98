"""Finds the proxy for a server in the environment's variables, and checks it.

httpx reads the same variables. But a wrong value makes it raise errors of other libraries, even for servers in
NO_PROXY.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from sage_inference.client.errors import InferenceConnectionError
from sage_inference.config.address import canonical_host, check_host, is_address, is_loopback
from sage_inference.config.errors import Invalid

_ENTRY = re.compile(r"(?:[a-z]+://)?(?P<host>\[[^\]]*\]|[^:]*|[^:]*:[^:]*:.*?)(?::(?P<port>\d+))?", re.I)
_PORTS = {"http": 80, "https": 443}
_SYSTEM = "the system's proxy setting"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. Messages name only its ``variable``, because the address may have a password."""

    variable: str
    url: httpx.URL = field(repr=False)


def proxy_for(url: str) -> Proxy | None:
    """The proxy for ``url``. None if none is configured, the host is this machine, or NO_PROXY names it.

    Raises ``InferenceConnectionError`` for a proxy that cannot be used.
    """
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme
    if is_loopback(host):
        return None
    known = getproxies()
    kind = next((one for one in (scheme, "all") if known.get(one)), None)
    if kind is None or _is_excepted(host, parts.port or _PORTS.get(scheme), known.get("no", "")):
        return None
    return _usable(url, host, _variable(kind), known[kind].strip())


def _usable(url: str, host: str, variable: str, value: str) -> Proxy:
    """The proxy in a variable. Messages leave its value out, because it may have a password."""
    address = value if "://" in value else f"http://{value}"
    scheme = address.partition("://")[0].lower()
    remedy = f"correct or unset it, or add {host} to NO_PROXY"
    if scheme not in ("http", "https", "socks5", "socks5h"):
        problem = f"has the scheme {scheme[:20]!r}, and only http, https, socks5 and socks5h can be used"
    elif not _is_address(address):
        problem = "is no address of a proxy such as http://proxy.example:3128"
    elif scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        problem = "names a SOCKS proxy, which takes the package socksio"
        remedy = f"pip install 'httpx[socks]', unset it, or add {host} to NO_PROXY"
    else:
        return Proxy(variable, httpx.URL(address))
    raise InferenceConnectionError(f"{url} cannot be reached: {variable} {problem}; {remedy}")


def _is_address(text: str) -> bool:
    try:
        found = httpx.URL(text)
        httpx.Proxy(text)
        check_host(found.host)
    except (httpx.InvalidURL, ValueError, Invalid):
        return False
    return found.port is None or 0 < found.port < 65536


def _variable(kind: str) -> str:
    """The variable's name in the environment. Lower case takes precedence."""
    for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY"):
        if os.environ.get(name):
            return name
    return next((n for n in os.environ if n.lower() == f"{kind}_proxy" and os.environ[n]), _SYSTEM)


def _is_excepted(host: str, port: int | None, exceptions: str) -> bool:
    name = canonical_host(host)
    return any(_matches(name, port, entry) for entry in re.split(r"[,\s]+", exceptions) if entry)


def _matches(name: str, port: int | None, entry: str) -> bool:
    """Whether an entry of NO_PROXY matches: ``*``, a domain, an address or a network, with or without a port."""
    if entry == "*":
        return True
    if "/" in entry.partition("://")[2] or ("/" in entry and "://" not in entry):
        return _is_within(name, entry)
    try:
        ipaddress.ip_address(entry)  # IPv6 without brackets: its last part is not a port
        wanted, only = entry, None
    except ValueError:
        found = _ENTRY.fullmatch(entry)
        if found is None:
            return False
        wanted, only = found["host"], found["port"]
    if only is not None and int(only) != port:
        return False
    wanted = canonical_host(wanted.removeprefix("*").lstrip("."))
    return bool(wanted) and (name == wanted or (not is_address(name) and name.endswith(f".{wanted}")))


def _is_within(name: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(
            network.replace("[", "").replace("]", ""), strict=False
        )
    except ValueError:
        return False
