"""The machine's own browser, and a page that is signed in to a gateway."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.inprocess import ADMIN, InProcess

NAMES = ("chromium", "chromium-browser", "google-chrome")
REBOUND = "rebound.example"  # a name that another's server of names points at this machine


@contextlib.contextmanager
def installed_browser() -> Iterator[Browser]:
    """A browser that is installed here. Playwright's own cannot be downloaded everywhere."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        # As root, as in CI, chromium has no sandbox. The pages are ours.
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"],
        )
        try:
            yield browser
        finally:
            browser.close()


def link_to(g: InProcess) -> str:
    code = httpx.post(f"{g.url}/admin/ui/link", headers=ADMIN).raise_for_status().json()["code"]
    return f"{g.url}/ui#code={code}"


class Visit:
    """A page in a context of its own. It collects what it asks for, and its errors."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self._context = browser.new_context(**context)
        self.page: Page = self._context.new_page()
        self.asked: set[str] = set()
        self.errors: list[str] = []
        self._context.on("request", lambda request: self.asked.add(request.url))
        self.page.on("console", self._log)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.set_default_timeout(10_000)

    def _log(self, message: ConsoleMessage) -> None:
        # A refused sign-in and a stream that breaks off are logged by the browser itself.
        if (
            message.type == "error"
            and "Failed to load resource" not in message.text
            and "net::" not in message.text
        ):
            self.errors.append(message.text)

    def close(self) -> None:
        self._context.close()

    def offline(self, gone: bool) -> None:
        self._context.set_offline(gone)


@contextlib.contextmanager
def visit(browser: Browser, g: InProcess, tab: str = "engines", **context: Any) -> Iterator[Visit]:
    """A page that is signed in and shows a view. At its end: it asked no other server, and had no error."""
    made = Visit(browser, **context)
    try:
        made.page.goto(link_to(g))
        made.page.click(f"#tab-{tab}")
        made.page.wait_for_selector("#connection[data-tone=ok]")
        yield made
        assert {url for url in made.asked if not url.startswith(f"{g.url}/")} == set()
        assert made.errors == []
    finally:
        made.close()
