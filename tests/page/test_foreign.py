"""Other pages in the same browser can neither read nor change the gateway."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page

from sage_inference.server import RunningGateway
from tests.page.browser import REBOUND, Visit, link_to, visit
from tests.page.foreign import fetched, foreign_page, heard, posted
from tests.support.inprocess import ADMIN, InProcess

# Chromium itself asks there about the text fields of any page: their structure, no content.
AUTOFILL = b"content-autofill.googleapis.com"


@pytest.fixture(scope="module")
def foreign() -> Iterator[str]:
    with foreign_page() as found:
        yield found


@pytest.fixture
def page(browser: Browser, foreign: str) -> Iterator[Page]:
    with contextlib.closing(Visit(browser)) as other:
        other.page.goto(foreign)
        yield other.page


@pytest.fixture(autouse=True)
def _unchanged(g: InProcess) -> Iterator[None]:
    before = g.ask(state)
    yield
    assert g.ask(state) == before


def state(running: RunningGateway) -> tuple[object, ...]:
    gateway = running.gateway
    drained = [each.drained_by_admin for each in gateway.engines.values()]
    return list(gateway.engines), drained, gateway.scheduler.policy.name


def test_a_page_that_knows_a_session_reads_and_changes_nothing(
    browser: Browser, g: InProcess, page: Page
) -> None:
    code = link_to(g).partition("code=")[2]
    with visit(browser, g) as mine:
        token = mine.page.evaluate("sessionStorage.getItem('sage-session')")
        known = {"authorization": f"Bearer {token}"}
        for headers in ({}, known, ADMIN):
            for path in ("admin/status", "admin/live", "admin/requests", "admin/decisions/x", "admin/usage"):
                assert fetched(page, f"{g.url}/{path}", headers, "GET") in ([403], [401], [])
        for method, path, body in (
            ("POST", "admin/instances/first/drain", None),
            ("DELETE", "admin/instances/first", None),
            ("PUT", "admin/policy", '{"policy": "random"}'),
            ("POST", "admin/reload", None),
            ("POST", "admin/ui/link", None),
            ("POST", "ui/session", f'{{"code": "{code}"}}'),
        ):
            assert fetched(page, f"{g.url}/{path}", known, method, body) in ([403], []), path
    assert httpx.post(f"{g.url}/ui/session", json={"code": code}).status_code == 201  # it is unspent


@pytest.mark.parametrize(
    "enctype", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_form_changes_nothing_and_its_answer_cannot_be_read(g: InProcess, page: Page, enctype: str) -> None:
    for path in ("admin/instances/first/drain", "admin/policy", "admin/reload", "ui/session"):
        assert posted(page, f"{g.url}/{path}", enctype) == ""
        assert fetched(page, f"{g.url}/{path}", {}, "POST", "{}", mode="no-cors") == []
        assert page.evaluate("url => navigator.sendBeacon(url, '{}')", f"{g.url}/{path}")


@pytest.mark.parametrize("kind", ["EventSource", "WebSocket", "script", "img"])
def test_streams_sockets_and_elements_get_nothing(g: InProcess, page: Page, kind: str) -> None:
    paths = {"script": ("ui/main.js", "ui/theme.js"), "img": ("ui/icon.svg",)}
    for path in paths.get(kind, ("admin/live", "admin/requests", "ui", "")):
        assert heard(page, kind, f"{g.url}/{path}") == "error", path


def test_neither_a_frame_nor_an_opened_window_is_in_its_reach(g: InProcess, page: Page) -> None:
    page.evaluate(
        "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f); }", g.url
    )
    framed = page.frames[-1]
    with contextlib.suppress(Exception):
        framed.wait_for_load_state(timeout=2000)
    assert framed.locator("#connection").count() == 0
    with page.expect_popup() as opening:
        page.evaluate("url => { window.other = window.open(url); }", f"{g.url}/ui")
    opened = opening.value
    opened.get_by_role("heading", name="Sign in").wait_for()
    assert opened.evaluate("window.opener") is None
    assert page.evaluate("window.other.closed")  # what it holds is no handle to that window
    opened.close()


def test_a_name_that_was_bound_anew_to_this_machine_opens_nothing(browser: Browser, g: InProcess) -> None:
    """The page of ``rebound.example`` then has the gateway's own origin, so no rule of browsers is left."""
    with contextlib.closing(Visit(browser)) as other:
        rebound = f"http://{REBOUND}:{g.port}"
        answer = other.page.goto(f"{rebound}/ui")
        assert answer is not None
        assert answer.status == 403
        assert "allowed_hosts" in other.page.inner_text("body")
        for headers in ({}, ADMIN):
            for method, path in (
                ("GET", "admin/status"),
                ("POST", "admin/instances/first/drain"),
                ("GET", "v1/models"),
            ):
                assert fetched(other.page, f"{rebound}/{path}", headers, method) == [403]


def test_an_inline_script_does_not_run_on_the_page(browser: Browser, g: InProcess) -> None:
    with contextlib.closing(Visit(browser)) as seen:
        seen.page.goto(f"{g.url}/ui")
        seen.page.evaluate(
            """() => {
              const node = document.createElement("script");
              try { node.text = "document.title = 'hacked'"; document.body.append(node); } catch { /* trusted types */ }
              const button = document.createElement("button");
              try { button.setAttribute("onclick", "document.title = 'hacked'"); } catch { /* trusted types */ }
              document.body.append(button);
              button.click();
              try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); } catch { /* trusted types */ }
              try { setTimeout("document.title = 'hacked'"); } catch { /* trusted types */ }
              return new Promise((resolve) => setTimeout(resolve, 50));
            }"""
        )
        assert seen.page.title() == "sage inference"
        refused = fetched(seen.page, "http://127.0.0.1:9/", {}, "POST", "secret", mode="no-cors")
        assert refused == []
        assert any("Content Security Policy" in error for error in seen.errors)


def test_no_request_leaves_the_machine(browser: Browser, g: InProcess) -> None:
    """Everything but loopback goes through a proxy that notes what it is asked for."""
    with noting_proxy() as (address, asked):
        proxy = {"server": address, "bypass": "127.0.0.1"}
        with visit(browser, g, proxy=proxy) as seen:
            for tab in ("requests", "queue", "embeddings", "usage", "configuration", "playground"):
                seen.page.click(f"#tab-{tab}")
            seen.page.fill("#chat-prompt", "hello")
            seen.page.keyboard.press("Enter")
            seen.page.get_by_role("button", name="why this engine?").wait_for()
        assert [each for each in asked if AUTOFILL not in each] == []
        with contextlib.closing(Visit(browser, proxy=proxy)) as other:  # the proxy would have noticed
            with contextlib.suppress(Exception):
                other.page.goto("http://elsewhere.example/")
        assert any(b"elsewhere.example" in each for each in asked)


@contextlib.contextmanager
def noting_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that answers nothing, and the first bytes of each connection to it."""
    asked: list[bytes] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(200))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
