"""Another user's server on this machine, with a page of its own, and what that page tries."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

from playwright.sync_api import Page

_FETCH = """async ([url, headers, method, mode, body]) => {
  try {
    const answer = await fetch(url, {method, mode, headers, body, credentials: "include"});
    return [answer.type, answer.status, (await answer.text()).length];
  } catch (error) { return ["error", 0, 0]; }
}"""
# Each of them ends with what the page could learn: "error", or what it got.
_HEARD = """([kind, url]) => new Promise((resolve) => {
  const got = (what) => resolve(what), failed = () => resolve("error");
  if (kind === "EventSource") {
    const source = new EventSource(url, {withCredentials: true});
    source.onopen = source.onmessage = () => got("opened");
    source.addEventListener("state", (event) => got(event.data));
    source.onerror = () => { source.close(); failed(); };
  } else if (kind === "WebSocket") {
    const socket = new WebSocket(url.replace("http", "ws"));
    socket.onopen = () => got("opened");
    socket.onerror = failed;
  } else {
    const node = document.createElement(kind);
    node.onload = () => got("loaded");
    node.onerror = failed;
    node.src = url;
    document.body.append(node);
  }
})"""
# A form needs no script to be sent, and its answer is shown in a frame.
_FORM = """([url, kind]) => new Promise((resolve) => {
  const frame = Object.assign(document.createElement("iframe"), {name: `f${Math.random()}`});
  const form = Object.assign(document.createElement("form"), {action: url, method: "POST", enctype: kind, target: frame.name});
  form.append(Object.assign(document.createElement("input"), {name: '{"policy":"random","x":"', value: '"}'}));
  document.body.append(frame, form);
  frame.onload = () => { try { resolve(frame.contentDocument?.body.innerText ?? ""); } catch { resolve(""); } };
  form.submit();
})"""


@contextlib.contextmanager
def foreign_page() -> Iterator[str]:
    """Its address: another port of this machine, so another origin of the same site."""

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


def fetched(
    page: Page, url: str, headers: dict[str, str], method: str, body: str | None = None, mode: str = "cors"
) -> list[int]:
    """The status that the page could read; empty if the browser or the gateway kept it from the answer."""
    kind, status, _ = page.evaluate(_FETCH, [url, headers, method, mode, body])
    return [] if kind in ("error", "opaque") else [status]


def heard(page: Page, kind: str, url: str) -> str:
    """Whether an EventSource, a WebSocket or an element of the page reached ``url``: "opened", "loaded" or an event's data; otherwise "error"."""
    found: str = page.evaluate(_HEARD, [kind, url])
    return found


def posted(page: Page, url: str, kind: str) -> str:
    """The answer to a form of the page, as far as the page could read it."""
    found: str = page.evaluate(_FORM, [url, kind])
    return found
