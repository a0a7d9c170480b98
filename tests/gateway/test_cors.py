"""What pages of other origins are granted: preflights, private networks, and headers that they may read."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import ServerSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok

PAGE = "https://chat.example"
CHAT = "/v1/chat/completions"
PATHS = (CHAT, "/v1/embeddings", "/v1/models", "/health", "/embed", "/no/such/route")
READABLE = {"x-request-id", "x-sage-instance", "x-sage-queue-ms"}
PRIVATE = "access-control-allow-private-network"


def page(g: InProcess) -> httpx.Client:
    return httpx.Client(base_url=g.url, trust_env=False, verify=False)


def preflight(c: httpx.Client, path: str, origin: str, **more: str) -> httpx.Response:
    asks = {"origin": origin, "access-control-request-method": "POST"}
    asks |= {name.replace("_", "-"): value for name, value in more.items()}
    return c.options(path, headers=asks)


def exposed(response: httpx.Response) -> set[str]:
    return set(response.headers.get("access-control-expose-headers", "").split(", ")) - {""}


@pytest.mark.parametrize(
    ("origins", "origin", "granted"),
    [
        ((PAGE,), PAGE, PAGE),
        (("HTTPS://Chat.Example/",), PAGE, PAGE),
        (("https://a.example", PAGE), PAGE, PAGE),
        (("*",), PAGE, "*"),
        (("http://192.168.1.9:3000",), "http://192.168.1.9:3000", "http://192.168.1.9:3000"),
    ],
    ids=["exact", "capitals and slash", "second", "any", "address"],
)
def test_an_allowed_page_may_cross_into_a_private_network(
    origins: tuple[str, ...], origin: str, granted: str
) -> None:
    with gateway(server=ServerSettings(cors_origins=origins)) as g, page(g) as c:
        for path in PATHS:
            plain = preflight(c, path, origin)
            private = preflight(
                c,
                path,
                origin,
                access_control_request_private_network="true",
                access_control_request_headers="authorization, x-stainless-os",
            )
            for found in (plain, private):
                assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, granted)
                assert "POST" in found.headers["access-control-allow-methods"]
            assert PRIVATE not in plain.headers
            assert private.headers[PRIVATE] == "true"
            assert private.headers["access-control-allow-headers"] == "authorization, x-stainless-os"


def test_another_page_is_granted_nothing() -> None:
    others = ("https://evil.example", "null", "http://chat.example", f"{PAGE}:444")
    with gateway(server=ServerSettings(cors_origins=(PAGE,))) as g, page(g) as c:
        for path, origin in product(PATHS, others):
            refused = preflight(c, path, origin, access_control_request_private_network="true")
            assert refused.status_code == 403
            assert "server.cors_origins" in refused.json()["error"]["message"]
            assert not [name for name in refused.headers if name.startswith("access-control-")]


def test_pages_may_read_what_names_a_request_and_its_engine() -> None:
    answers = [ok(), ok("{}", "access-control-expose-headers: x-engine", "x-sage-own: 1")]
    with RogueEngine(*answers) as engine, gateway(engine, server=ServerSettings(cors_origins=(PAGE,))) as g:
        with page(g) as c:
            c.headers["origin"] = PAGE
            body: dict[str, Any] = {"model": "m", "messages": []}
            asked = [c.post(CHAT, json=body), c.post(CHAT, json=body)]
            asked += [c.post(CHAT, json={**body, "model": "other"}), c.post(CHAT, content=b"{")]
            asked += [c.get("/v1/models"), c.get("/nothing"), c.put(CHAT), c.get("/health")]
            for found in asked:
                assert exposed(found) >= READABLE, found
                assert found.headers.get_list("access-control-allow-origin") == [PAGE]
                assert found.headers.get_list("vary") == ["Origin"]
            assert asked[0].headers["x-sage-instance"] == "e0"
            other = c.get("/v1/models", headers={"origin": "http://localhost:3000"})
            assert not exposed(other)


def test_grants_follow_a_reload() -> None:
    with RogueEngine(ok()) as engine, gateway(engine, server=ServerSettings(cors_origins=(PAGE,))) as g:
        with page(g) as c:

            def seen() -> list[tuple[int, bool]]:
                asked = preflight(c, CHAT, PAGE, access_control_request_private_network="true")
                headers = {"origin": PAGE}
                relayed = c.post(CHAT, json={"model": "m", "messages": []}, headers=headers)
                return [
                    (asked.status_code, PRIVATE in asked.headers),
                    (relayed.status_code, bool(exposed(relayed))),
                ]

            assert seen() == [(200, True), (200, True)]
            for origins, expected in (
                (("https://b.example",), [(403, False), (403, False)]),
                ((PAGE,), [(200, True), (200, True)]),
                ((), [(403, False), (403, False)]),
                (("*",), [(200, True), (200, True)]),
            ):
                server = replace(g.settings_to_load.server, cors_origins=origins)
                g.settings_to_load = replace(g.settings_to_load, server=server)
                g.ask(lambda r: r.reload())
                assert seen() == expected, origins
