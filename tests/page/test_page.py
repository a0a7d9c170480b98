"""The page in a real browser: what people click, what they see, and what other pages cannot do.

One browser and one gateway serve all of these tests.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from sage_inference.server import RunningGateway
from tests.page.browser import Visit, link_to, visit
from tests.support.command import sage
from tests.support.gateway import free_port
from tests.support.inprocess import InProcess
from tests.support.managed import CHAT as OWN_ENGINE
from tests.support.managed import managed
from tests.support.simulators import SimulatedEngine
from tests.support.wire import Caller, post

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
VIEWS = ("engines", "requests", "queue", "embeddings", "usage", "playground", "configuration")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
NOTE_SLOWEST_TICK = """() => {
  let last = performance.now();
  window.slowestMs = 0;
  setInterval(() => {
    const now = performance.now();
    window.slowestMs = Math.max(window.slowestMs, now - last);
    last = now;
  }, 20);
}"""
CHAT = {"model": "chat-model", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}


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
        row.get_by_text("chat-model").click()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        page.fill("#filter", "nothing has this")
        expect(opener).to_be_hidden()


def test_long_names_are_cut_and_the_status_stays_in_sight(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "requests", viewport={"width": 1000, "height": 700}) as seen:
        name = "a-long-name-" * 10
        headers = {"x-request-id": "long"}
        httpx.post(f"{g.url}/v1/chat/completions", json={**CHAT, "user": name}, headers=headers)
        row = seen.page.locator("tr", has=seen.page.get_by_role("button", name="explain long"))
        expect(row.get_by_title(name)).to_be_visible()
        box = row.locator("td.state").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] < 1000
        seen.page.set_viewport_size({"width": 1440, "height": 700})
        table = seen.page.locator("#view-requests .scroll")
        assert table.evaluate("node => node.scrollWidth <= node.clientWidth")


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


def test_a_refused_request_shows_its_reason(browser: Browser, g: InProcess) -> None:
    with visit(browser, g, "requests") as seen:
        refused = {**CHAT, "model": "not-served"}
        httpx.post(f"{g.url}/v1/chat/completions", json=refused, headers={"x-request-id": "turned away"})
        opener = seen.page.get_by_role("button", name="explain turned away")
        expect(seen.page.locator("tr", has=opener)).to_contain_text("404 refused")
        opener.focus()
        seen.page.keyboard.press("Enter")
        dialog = seen.page.get_by_role("dialog", name="Request turned away")
        expect(dialog).to_contain_text('no instance serves model "not-served"')
        expect(dialog.get_by_role("button", name="Close")).to_be_focused()
        assert serious_faults(seen.page) == []
        seen.page.keyboard.press("Enter")
        expect(opener).to_be_focused()


def test_a_flood_of_requests_leaves_the_page_short_and_quick(browser: Browser, g: InProcess) -> None:
    flood = post("/v1/chat/completions", json.dumps({**CHAT, "max_tokens": 1}).encode())
    with visit(browser, g, "requests") as seen, contextlib.ExitStack() as stack:
        seen.page.evaluate(NOTE_SLOWEST_TICK)
        callers = [stack.enter_context(Caller(g.port)) for _ in range(16)]
        for _ in range(40):  # as fast as this machine can, and the page gets five documents a second
            for caller in callers:
                caller.send(flood)
            for caller in callers:
                caller.reply()
        assert seen.page.evaluate("window.slowestMs") < 3000
        seen.page.click("#tab-engines")
        expect(seen.page.locator("#view-engines tbody tr").first).to_be_visible()
        seen.page.click("#tab-requests")
        assert 50 <= seen.page.locator("#view-requests tbody tr").count() <= 150


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


# The gateway goes


def test_an_open_page_goes_on_after_a_restart(browser: Browser, tmp_path: Path) -> None:
    command = partial(sage, tmp_path)
    started = command("start", "--background", "--wait", "gateway", "--port", str(free_port()))
    assert started.returncode == 0, started.stderr
    try:
        with contextlib.closing(Visit(browser)) as seen:
            seen.page.goto(json.loads(command("ui", "--no-open", "--json").stdout)["url"])
            seen.page.click("#tab-configuration")
            process = seen.page.locator("#view-configuration dd").nth(1)
            expect(process).to_have_text(re.compile(r"\d+"))
            before = process.inner_text()
            assert command("restart").returncode == 0
            expect(process).not_to_have_text(before, timeout=30_000)
            expect(seen.page.locator("#connection")).to_have_text("running")
    finally:
        command("stop", "--force")


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
