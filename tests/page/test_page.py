"""The page in a real browser: what people click, what they see, and what other pages cannot do.

One browser and one gateway serve all of these tests.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import InstanceSettings, ServerSettings
from sage_inference.gateway.live import feed
from sage_inference.server import RunningGateway
from tests.page.browser import Visit, installed_browser, link_to, visit
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.managed import CHAT as OWN_ENGINE
from tests.support.managed import managed
from tests.support.simulators import SimulatedEngine, simulated_engine

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
VIEWS = ("engines", "requests", "queue", "embeddings", "usage", "playground", "configuration")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
CHAT = {"model": "chat-model", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with installed_browser() as found:
        yield found


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[SimulatedEngine, SimulatedEngine]]:
    with (
        simulated_engine("vllm", "--model", "chat-model") as chat,
        simulated_engine("tei", "--model", "vectors") as vectors,
    ):
        yield chat, vectors


@pytest.fixture(scope="module")
def g(
    browser: Browser,
    engines: tuple[SimulatedEngine, SimulatedEngine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InProcess]:
    chat, vectors = engines
    instances = (
        InstanceSettings(url=chat.url, name="first"),
        InstanceSettings(url=vectors.url, name="second/vectors"),
    )
    # Even where the API is open to all pages, /admin is not.
    server = ServerSettings(cors_origins=("*",))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(feed, "PERIOD_S", 0.2)
        patch.setattr(InProcess, "usage_file", tmp_path_factory.mktemp("usage") / "usage.db")
        running = stack.enter_context(gateway(*instances, admin_key=Secret("the-admin-key"), server=server))
        running.until(lambda r: all(e.instance.is_available for e in r.gateway.engines.values()))
        yield running


# Sign in


def test_a_link_signs_in_once_and_leaves_no_code_behind(browser: Browser, g: InProcess) -> None:
    link = link_to(g)
    with contextlib.closing(Visit(browser)) as first, contextlib.closing(Visit(browser)) as second:
        first.page.goto(link)
        expect(first.page.locator("#connection")).to_have_text("running")
        assert "code=" not in first.page.url
        assert first.page.evaluate("document.cookie + JSON.stringify(Object.keys(localStorage))") == "[]"
        first.page.reload()
        expect(first.page.locator("#connection")).to_have_text("running")
        second.page.goto(link)
        expect(second.page.get_by_role("alert")).to_contain_text("used already")
        second.page.goto(f"{g.url}/")
        second.page.fill("#key", "wrong")
        second.page.keyboard.press("Enter")
        expect(second.page.get_by_role("alert")).to_contain_text("no right to /admin")
        second.page.fill("#key", "the-admin-key")
        second.page.keyboard.press("Enter")
        expect(second.page.locator("#connection")).to_have_text("running")
        second.page.get_by_role("button", name="Sign out").click()
        expect(second.page.get_by_role("alert")).to_have_text("You are signed out.")
        assert second.page.evaluate("Object.keys(sessionStorage).length") == 0


# Look


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_every_view_is_accessible_and_fits(browser: Browser, g: InProcess, scheme: Any, width: int) -> None:
    httpx.post(f"{g.url}/v1/chat/completions", json=CHAT).raise_for_status()
    size: Any = {"width": width, "height": 900}
    with visit(browser, g, color_scheme=scheme, viewport=size, reduced_motion="reduce") as seen:
        for view in VIEWS:
            seen.page.click(f"#tab-{view}")
            expect(seen.page.locator(f"#view-{view}")).to_be_visible()
            if view == "requests":
                seen.page.locator("#view-requests td.lead button").first.wait_for()
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert serious_faults(seen.page) == [], view
        # The other theme has other contrasts.
        seen.page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        for view in ("engines", "requests"):
            seen.page.click(f"#tab-{view}")
            assert serious_faults(seen.page) == [], view


def serious_faults(page: Page) -> list[tuple[str, str]]:
    """The findings of axe-core that keep people from using the page."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
    ]


def test_the_keyboard_reaches_every_view_and_the_theme_stays(browser: Browser, g: InProcess) -> None:
    with visit(browser, g) as seen:
        page = seen.page
        page.focus("#tab-engines")
        for view in (*VIEWS[1:], VIEWS[0]):
            page.keyboard.press("ArrowRight")
            expect(page.locator(f"#tab-{view}")).to_be_focused()
            expect(page.locator(f"#tab-{view}")).to_have_attribute("aria-selected", "true")
        page.click("#theme")
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


# Requests


def test_a_request_appears_and_a_click_explains_it(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "requests") as seen:
        page = seen.page
        httpx.post(f"{g.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "look at/me"})
        opener = page.get_by_role("button", name="explain look at/me")
        row = page.locator("tr", has=opener)
        expect(row).to_contain_text("chat-model")
        expect(row).to_contain_text("first")
        expect(row).to_contain_text("200")
        opener.click()
        dialog = page.get_by_role("dialog", name="Request look at/me")
        expect(dialog).to_contain_text("Why: only instance")
        expect(dialog.get_by_role("row", name="first ✓ chosen")).to_be_visible()
        assert serious_faults(page) == []
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(opener).to_be_focused()
        page.fill("#filter", "nothing has this")
        expect(opener).to_be_hidden()


def test_what_callers_send_is_shown_as_text(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "requests") as seen:
        for field in ({"user": HOSTILE}, {"user": "\u2028${1}'\"&<b>"}):
            httpx.post(
                f"{g.url}/v1/chat/completions", json={**CHAT, **field}, headers={"x-request-id": HOSTILE}
            )
        opener = seen.page.get_by_role("button", name=HOSTILE).first
        expect(seen.page.locator("tr", has=opener).first).to_be_visible()
        opener.click()
        expect(seen.page.locator("#dialog-title")).to_contain_text("<img src=x")
        assert seen.page.locator("main img, main script, dialog img").count() == 0
        assert seen.page.title() == "sage inference"


# Act


def test_an_engine_is_drained_and_resumed(browser: Browser, g: InProcess) -> None:
    with visit(browser, g) as seen:
        page = seen.page
        row = page.locator("#view-engines tr", has_text="second/vectors")
        row.get_by_role("button", name="Drain").click()
        expect(row).to_contain_text("draining")
        assert not g.ask(lambda r: r.gateway.engines["second/vectors"].instance.is_available)
        row.get_by_role("button", name="Resume").click()
        expect(row).to_contain_text("ready")
        expect(page.locator("#notice")).to_have_text("second/vectors takes requests again")
        assert g.ask(lambda r: r.gateway.engines["second/vectors"].instance.is_available)


def test_an_engine_of_the_gateway_is_loaded_and_after_a_second_click_unloaded(
    browser: Browser, tmp_path: Path
) -> None:
    with managed(tmp_path, replace(OWN_ENGINE, start="manual")) as own, visit(browser, own) as seen:
        row = seen.page.locator("#view-engines tr", has_text="started here")
        expect(row).to_contain_text("off")
        row.get_by_role("button", name="Load").click()
        expect(row).to_contain_text("ready", timeout=20_000)
        row.get_by_role("button", name="Unload").click()
        row.get_by_role("button", name="Really unload").click()
        expect(row).to_contain_text("off")
        own.state("chat", "off")


def test_the_policy_is_changed_and_the_configuration_reloaded(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "configuration") as seen:
        seen.page.select_option("#policy", "least_loaded")
        expect(seen.page.locator("#notice")).to_contain_text("least_loaded")
        assert g.ask(lambda r: r.gateway.scheduler.policy.name) == "least_loaded"
        seen.page.get_by_role("button", name="Reload").click()
        expect(seen.page.locator("#view-configuration")).to_contain_text("Reloaded.")


def test_usage_is_shown_by_model_and_by_day(browser: Browser, g: InProcess) -> None:
    httpx.post(f"{g.url}/v1/chat/completions", json=CHAT).raise_for_status()
    with visit(browser, g, "usage") as seen:
        table = seen.page.get_by_role("region", name="Usage")
        expect(table).to_contain_text("chat-model")
        seen.page.select_option("#usage-by", "day")
        expect(table).not_to_contain_text("chat-model")
        expect(table.locator("tbody tr")).to_have_count(1)


# Playground


def test_the_playground_streams_and_stops_in_the_engine(
    browser: Browser, g: InProcess, engines: tuple[SimulatedEngine, SimulatedEngine]
) -> None:
    with visit(browser, g, "playground") as seen:
        page = seen.page
        expect(page.locator("#chat-model")).to_have_value("chat-model")
        page.fill("#chat-prompt", "a secret that stays here")
        page.keyboard.press("Enter")
        answer = page.locator(".said.assistant").last
        expect(answer.get_by_role("button", name="why this engine?")).to_be_visible()
        expect(answer).to_contain_text("tokens/s")
        engines[0].faults([{"hang_after_chunks": 4, "count": 1}])
        page.fill("#chat-prompt", "again")
        page.keyboard.press("Enter")
        answer = page.locator(".said.assistant").last
        expect(answer.locator("p")).not_to_be_empty()
        page.get_by_role("button", name="Stop").click()
        expect(answer).to_contain_text("stopped")
        g.until(lambda r: r.gateway.in_flight == 0)
        stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "secret" not in stored
        # The session is for the gateway. An engine must not get it.
        sent = engines[0].requests()
        assert sent
        assert [each.header("authorization") for each in sent if each.header("authorization")] == []


def test_the_playground_compares_texts(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "playground") as seen:
        expect(seen.page.locator("#embed-model")).to_have_value("vectors")
        seen.page.get_by_role("button", name="Compare").click()
        expect(seen.page.locator(".matrix tbody tr")).to_have_count(3)
        expect(seen.page.locator(".matrix td.h10")).to_have_count(3)


# Other pages


@pytest.fixture
def foreign() -> Iterator[str]:
    """Another user's server on this machine, with a page of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>foreign</title>")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


TRY = """async ([url, headers, method, mode, body]) => {
  try {
    const answer = await fetch(url, {method, mode, headers, body, credentials: "include"});
    return [answer.type, answer.status, (await answer.text()).length];
  } catch (error) { return ["error", 0, 0]; }
}"""


def test_a_foreign_page_reads_nothing_and_changes_nothing(
    browser: Browser, g: InProcess, foreign: str
) -> None:
    with visit(browser, g) as mine, contextlib.closing(Visit(browser)) as other:
        token = mine.page.evaluate("sessionStorage.getItem('sage-session')")
        page = other.page
        page.goto(foreign)
        before = g.ask(lambda r: (list(r.gateway.engines), r.gateway.scheduler.policy.name))
        known = {"authorization": f"Bearer {token}"}  # the worst case: it has got hold of a session
        for headers in ({}, known, ADMIN):
            for path in ("admin/status", "admin/live", "admin/requests", "admin/decisions/x"):
                assert read_by(page, f"{g.url}/{path}", headers, "GET", "cors") in ([403], [401], [])
        code = link_to(g).partition("code=")[2]
        for method, path, body in (
            ("POST", "admin/instances/first/drain", None),
            ("DELETE", "admin/instances/first", None),
            ("PUT", "admin/policy", '{"policy": "random"}'),
            ("POST", "admin/reload", None),
            ("POST", "admin/ui/link", None),
            ("POST", "ui/session", f'{{"code": "{code}"}}'),
        ):
            assert read_by(page, f"{g.url}/{path}", known, method, "cors", body) in ([403], []), path
        for path in ("admin/instances/first/drain", "admin/reload", "ui/session"):  # as a form sends it
            page.evaluate(TRY, [f"{g.url}/{path}", {}, "POST", "no-cors", "{}"])
        page.evaluate(
            "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f); }",
            g.url,
        )
        assert g.ask(lambda r: (list(r.gateway.engines), r.gateway.scheduler.policy.name)) == before
        assert g.ask(lambda r: r.gateway.engines["first"].instance.is_available)
        framed = page.frames[-1]
        with contextlib.suppress(Exception):
            framed.wait_for_load_state(timeout=2000)
        assert framed.locator("#connection").count() == 0
        assert (
            httpx.post(f"{g.url}/ui/session", json={"code": code}).status_code == 201
        )  # the code is unspent


def read_by(
    page: Page, url: str, headers: dict[str, str], method: str, mode: str, body: str | None = None
) -> list[int]:
    """The status that the page could read; empty if the browser or the gateway kept it from the answer."""
    kind, status, _ = page.evaluate(TRY, [url, headers, method, mode, body])
    return [] if kind in ("error", "opaque") else [status]


# The gateway goes


def test_the_page_reports_that_the_gateway_is_gone_and_comes_back_by_itself(
    browser: Browser, g: InProcess
) -> None:
    with visit(browser, g) as seen:
        seen.offline(True)
        # The stream that is open survives in chromium's emulation, so the gateway ends it.
        g.ask(break_off)
        expect(seen.page.locator("#connection")).to_contain_text("gone")
        seen.offline(False)
        expect(seen.page.locator("#connection")).to_have_text("running")


def break_off(running: RunningGateway) -> None:
    for connection in list(running.server.server_state.connections):
        connection.transport.abort()


def test_a_session_that_ended_leads_to_the_sign_in(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "requests") as seen:
        token = seen.page.evaluate("sessionStorage.getItem('sage-session')")
        httpx.delete(f"{g.url}/ui/session", headers={"authorization": f"Bearer {token}"}).raise_for_status()
        expect(seen.page.get_by_role("alert")).to_contain_text("session has ended")
