"""The names under which a gateway may be called: what Host and Origin may hold."""

from __future__ import annotations

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, ServerSettings
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, chat, post

KEYS = (ApiKeySettings(key=Secret("k")),)
FOREIGN = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "evil.localhost.example",
    "",
)


def status(g: InProcess, path: str, host: str, *headers: str, version: str = "1.1") -> int:
    lines = [
        f"GET {path} HTTP/{version}",
        f"host: {host}",
        f"authorization: {ADMIN['authorization']}",
        *headers,
    ]
    with Caller(g.port) as caller:
        return caller.send("\r\n".join([*lines, "", ""]).encode()).reply().status


@pytest.mark.parametrize(
    "bound", ["Localhost", "LOCALHOST.", "gw.localhost", "[::1]", "::ffff:127.0.0.1", "0x7f.1"]
)
def test_every_loopback_bind_checks_names(bound: str) -> None:
    with gateway(server=ServerSettings(host=bound)) as g:
        for host in FOREIGN:
            assert status(g, "/health/live", host) == 403, host
        assert status(g, "/health/live", "localhost", "origin: https://evil.example") == 403
        for host in ("localhost", "LLM.localhost:8000", "localhost.", "127.0.0.1:1", "127.1", "[::1]:8000"):
            assert status(g, "/health/live", host) == 200, host
            assert status(g, "/health/live", host, f"origin: http://{host}") == 200, host


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("gw.lan", "GW.lan.:8000"),
        ("gw.lan.", "gw.lan"),
        ("fd00::2", "[fd00::2]:8000"),
        ("[FD00:0:0::2]", "[fd00::2]"),
        ("fe80::1%eth0", "[fe80::1%eth0]:8000"),
        ("fe80::1%eth0", "[fe80::1]"),
        ("192.168.1.5", "192.168.1.5:8000"),
    ],
)
def test_an_allowed_host_is_known_however_it_is_written(allowed: str, host: str) -> None:
    with gateway(server=ServerSettings(allowed_hosts=(allowed,))) as g:
        assert status(g, "/health/live", host) == 200
        assert status(g, "/health/live", "[fd00::3]") == 403


@pytest.mark.parametrize("path", ["/health", "/health/live", "/v1/models", "/admin/status"])
def test_a_health_check_of_http_1_0_needs_no_host(path: str) -> None:
    with gateway() as g, Caller(g.port) as caller:
        lines = f"GET {path} HTTP/1.0\r\nauthorization: {ADMIN['authorization']}\r\n\r\n"
        assert caller.send(lines.encode()).reply().status in (200, 503)
        assert status(g, path, "evil.example", version="1.0") == 403


def test_the_host_of_an_absolute_target_is_the_one_that_counts() -> None:
    with gateway() as g:
        assert status(g, "http://evil.example/health/live", "localhost") == 403
        assert status(g, "http://localhost/health/live", "evil.example") == 200
        assert status(g, "http://[::1]:8000/health/live", "localhost") == 200
        assert status(g, "http://user@evil.example:80/admin/status", "localhost") == 403
        with Caller(g.port) as caller:
            assert caller.send(post("http://evil.example" + CHAT, chat())).reply().status == 403


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.0.2.7", "gpu.lan"])
def test_admin_checks_names_on_public_binds_too_and_the_api_does_not(bound: str) -> None:
    with gateway(server=ServerSettings(host=bound, allowed_hosts=("gw.lan",)), api_keys=KEYS) as g:
        for host in FOREIGN:
            assert status(g, "/admin/status", host) == 403, host
            assert status(g, "/health/live", host) == 200, host
        for host in ("localhost:8000", "127.0.0.1", "192.168.1.5:8000", "[fe80::1%eth0]:8000", "gw.lan"):
            assert status(g, "/admin/status", host) == 200, host
    with gateway(server=ServerSettings(host="gpu.lan"), api_keys=KEYS) as g:
        assert status(g, "/admin/status", "GPU.lan:8000") == 200


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_a_page_gets_nothing_from_admin_even_with_the_token(bound: str) -> None:
    server = ServerSettings(host=bound, cors_origins=("*", "https://ops.example"))
    with gateway(server=server, api_keys=KEYS) as g:
        for origin in (
            "http://localhost:3000",
            "http://127.0.0.1",
            "null",
            "https://evil.example",
            "*",
            "http://",
            "https://ops.example.evil.example",
        ):
            assert status(g, "/admin/status", "localhost", f"origin: {origin}") == 403, origin
        assert status(g, "/admin/status", "localhost", "origin: https://ops.example") == 200


@pytest.mark.parametrize("host", ["[::1]", "::1", "fe80::1%lo"])
def test_an_ipv6_address_is_shown_with_one_pair_of_brackets(host: str) -> None:
    with gateway(server=ServerSettings(host=host), api_keys=KEYS) as g:
        shown = httpx.get(f"{g.url}/admin/status", headers=ADMIN, trust_env=False, verify=False).json()[
            "address"
        ]
    assert shown == f"http://[{host.strip('[]')}]:8000"


RIGHT = (
    ["authorization: Bearer k"],
    ["authorization: bearer   k "],
    ["x-api-key: k"],
    ["x-api-key: k", "authorization: Basic dTpw"],
    ["authorization: Bearer dummy", "x-api-key: k"],
    ["x-api-key: dummy", "authorization: Bearer k"],
    ["authorization: Digest x", "authorization: Bearer k"],
    ["authorization: Bearer adm", "x-api-key: dummy"],
)
WRONG: tuple[list[str], ...] = (
    ["authorization: Bearer dummy", "x-api-key: other"],
    ["authorization: Basic dTpw"],
    ["authorization: k"],
    ["authorization: Bearer ", "x-api-key:"],
    [],
)


def test_one_right_key_among_several_is_enough() -> None:
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=KEYS, admin_key=Secret("adm")) as g:
        for headers, expected in [*((one, 200) for one in RIGHT), *((one, 401) for one in WRONG)]:
            with Caller(g.port) as caller:
                assert caller.send(post(CHAT, chat(), *headers)).reply().status == expected, headers
            with Caller(g.port) as caller:
                lines = ["GET /v1/models HTTP/1.1", "host: localhost", *headers, "", ""]
                assert caller.send("\r\n".join(lines).encode()).reply().status == expected, headers
