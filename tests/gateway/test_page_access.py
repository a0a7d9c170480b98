"""Who gets into the page: one-time links, sessions, keys; and what foreign pages get."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, ServerSettings, Settings
from sage_inference.gateway.ui import sessions
from sage_inference.gateway.ui.sessions import Sessions, TooManyGuesses
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok

HTTP = httpx.Client()  # one for all, because each loads the certificates of this machine
KEYS = (ApiKeySettings(key=Secret("callers-key")),)


def link(g: InProcess) -> str:
    reply = HTTP.post(f"{g.url}/admin/ui/link", headers=ADMIN)
    assert reply.headers["cache-control"] == "no-store"
    code: str = reply.raise_for_status().json()["code"]
    assert reply.json()["url"].endswith(f"/ui#code={code}")
    return code


def post(g: InProcess, document: Any, **headers: str) -> httpx.Response:
    return HTTP.post(f"{g.url}/ui/session", content=json.dumps(document), headers=headers)


def session(g: InProcess) -> dict[str, str]:
    return {"authorization": f"Bearer {post(g, {'code': link(g)}).raise_for_status().json()['token']}"}


def status(g: InProcess, **headers: str) -> int:
    return HTTP.get(f"{g.url}/admin/status", headers=headers).status_code


def test_a_link_opens_one_session_and_the_session_opens_admin() -> None:
    with gateway() as g:
        code = link(g)
        first = post(g, {"code": code})
        assert first.status_code == 201
        again = post(g, {"code": code})
        assert (again.status_code, again.json()["error"]["code"]) == (403, "wrong_code")
        token = first.json()["token"]
        assert status(g, authorization=f"Bearer {token}") == 200
        for other in ("x", token[:-1], f"{token}x", code):
            assert status(g, authorization=f"Bearer {other}") in (401, 403)


def test_only_the_machines_user_and_the_admin_key_get_a_link_or_a_session() -> None:
    with gateway(api_keys=KEYS, admin_key=Secret("adm")) as g:
        for headers in ({}, {"authorization": "Bearer callers-key"}, {"authorization": "Bearer x"}):
            assert HTTP.post(f"{g.url}/admin/ui/link", headers=headers).status_code in (401, 403)
        assert post(g, {"key": "callers-key"}).status_code == 403
        token = post(g, {"key": "adm"}).json()["token"]
        assert status(g, authorization=f"Bearer {token}") == 200


def test_a_session_ends_when_it_is_closed_when_its_key_goes_and_with_the_gateway() -> None:
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=KEYS, admin_key=Secret("adm")) as g:
        mine = session(g)
        by_key = {"authorization": f"Bearer {post(g, {'key': 'adm'}).json()['token']}"}
        chat = {"model": "m", "messages": []}
        for _ in range(2):  # the second head comes from the cache
            for shown in (mine, by_key):
                assert HTTP.post(f"{g.url}/v1/chat/completions", json=chat, headers=shown).status_code == 200
        g.settings_to_load = Settings(
            instances=g.settings_to_load.instances, api_keys=KEYS, admin_key=Secret("new")
        )
        HTTP.post(f"{g.url}/admin/reload", headers=ADMIN).raise_for_status()
        assert (status(g, **by_key), status(g, **mine)) == (403, 200)
        assert HTTP.post(f"{g.url}/v1/chat/completions", json=chat, headers=by_key).status_code == 401
        assert HTTP.delete(f"{g.url}/ui/session", headers=mine).status_code == 200
        assert status(g, **mine) == 403
        assert HTTP.post(f"{g.url}/v1/chat/completions", json=chat, headers=mine).status_code == 401
    with gateway() as g:
        assert status(g, **mine) == 403


def test_keys_are_guessed_slowly_and_a_link_works_all_the_same() -> None:
    with gateway(admin_key=Secret("adm")) as g:
        tries = [post(g, {"key": f"guess-{number}"}).status_code for number in range(12)]
        assert tries == [403] * 10 + [429] * 2
        refused = post(g, {"key": "adm"})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 6
        assert status(g, **session(g)) == 200


def test_an_odd_body_is_400_and_one_that_is_too_long_413() -> None:
    odd = [b"", b"{}", b"[]", b"null", b'{"code": 1}', b'{"code": ""}', b"\xff", b"[" * 5000]
    odd += [b'{"code": "x", "key": "y"}', json.dumps({"key": "x" * 1001}).encode()]
    with gateway() as g:
        for body in odd:
            assert HTTP.post(f"{g.url}/ui/session", content=body).status_code == 400, body[:40]
        assert HTTP.post(f"{g.url}/ui/session", content=b"x" * ((1 << 20) + 1)).status_code == 413


# Origins

FOREIGN = (
    "http://evil.example",
    "null",
    "http://localhost:1",
    "https://127.0.0.1:1",
    "file://",
    "http://127.0.0.1",
)


@pytest.mark.parametrize("origins", [(), ("*",)])
def test_the_gateways_own_page_may_call_admin_with_its_session_and_no_other_page(
    origins: tuple[str, ...],
) -> None:
    with gateway(server=ServerSettings(cors_origins=origins)) as g:
        mine = session(g)
        assert status(g, **mine, origin=g.url) == 200
        assert status(g, **ADMIN, origin=g.url) == 403  # the page has no business with the run's token
        assert status(g, origin=g.url) == 403
        for origin in FOREIGN:
            assert status(g, **mine, origin=origin) == 403
            assert post(g, {"code": link(g)}, origin=origin).status_code == 403
        assert post(g, {"code": link(g)}, origin=g.url).status_code == 201


def test_a_rebound_name_is_no_own_origin() -> None:
    with gateway() as g:
        mine = session(g)
        evil = {"host": f"evil.example:{g.port}", "origin": f"http://evil.example:{g.port}"}
        assert status(g, **mine, **evil) == 403
        assert post(g, {"code": link(g)}, **evil).status_code == 403


# The page's files


def test_a_browser_gets_the_page_at_the_root_and_all_else_gets_json() -> None:
    with gateway(api_keys=KEYS) as g:
        browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        for path in ("/", "/ui"):
            reply = HTTP.get(g.url + path, headers=browser)
            assert reply.headers["content-type"] == "text/html; charset=utf-8"
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert "set-cookie" not in reply.headers
        assert HTTP.get(g.url, headers=browser).headers["vary"] == "Accept"
        for accept in ("*/*", "application/json", ""):
            assert HTTP.get(g.url, headers={"accept": accept}).status_code == 401
        key = {"authorization": "Bearer callers-key"}
        assert HTTP.get(g.url, headers=key).json()["name"] == "sage-inference"
        # What serves a page to browsers must not open the engines' route of the same path.
        assert HTTP.post(g.url, headers=browser, json={"inputs": "x"}).status_code == 401


def test_there_are_no_other_files() -> None:
    with gateway() as g:
        for path in ("nope.js", "../guard.py", "%2e%2e/files.py", "..%2ffiles.py", "x/y", "files.py"):
            assert HTTP.get(f"{g.url}/ui/{path}").status_code == 404, path


def test_a_file_that_did_not_change_is_not_sent_again() -> None:
    with gateway() as g:
        first = HTTP.get(f"{g.url}/ui/main.js")
        assert first.headers["content-type"].startswith("text/javascript")
        again = HTTP.get(f"{g.url}/ui/main.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


# Sessions alone


def test_codes_and_sessions_are_bounded_in_number_and_time() -> None:
    now, ended = [0.0], []
    held = Sessions(lambda: now[0], lambda: ended.append(1))
    codes = [held.new_code() for _ in range(sessions.MOST_CODES + 1)]
    assert held.open_with_code(codes[0]) is None
    tokens = [held.open_with_code(held.new_code()) for _ in range(sessions.MOST_SESSIONS + 1)]
    opened = [held.key_of(sessions._digest(token or ""))[0] for token in tokens]
    assert opened == [False] + [True] * sessions.MOST_SESSIONS
    assert len(ended) == 1
    now[0] = sessions.CODE_S + 1
    assert held.open_with_code(codes[-1]) is None
    now[0] = sessions.SESSION_S + 1
    assert not held.key_of(sessions._digest(tokens[-1] or ""))[0]
    held.tick()
    assert (held._sessions, held._codes, len(ended)) == ({}, {}, 2)


def test_wrong_keys_are_forgotten_one_by_one() -> None:
    now = [100.0]
    held = Sessions(lambda: now[0])
    for _ in range(sessions.WRONG_KEYS):
        assert held.open_with_key("k", is_right=False) is None
    with pytest.raises(TooManyGuesses):
        held.open_with_key("k", is_right=True)
    now[0] += sessions.MORE_AFTER_S
    assert held.open_with_key("k", is_right=True)
