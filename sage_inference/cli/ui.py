"""``ui``: a link to the gateway's page, opened in a browser."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def ui(
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the link, and open no browser.")] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Open the gateway's page in a browser.

    The page shows engines, requests and the queue as they change, and has a playground. The link works
    once and for one minute. The browser is then signed in for 12 hours, or until the gateway stops.

    \b
    Examples:
      sage inference ui
      sage inference ui --no-open
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import page

    paths = Paths.resolve()
    link = page.new_link(paths)
    if as_json:
        terminal.say_json({"schema": 1, "url": link["url"], "expires_s": link["expires_s"]})
        return
    terminal.say(link["url"])
    if remote := os.environ.get("SSH_CONNECTION"):
        terminal.talk("on your own machine, run this first, and then open the link there:")
        terminal.talk(_tunnel(remote, link["port"]))
    elif not no_open and _has_browser():
        _open(page.write_redirect(paths, link["url"]).as_uri())
    terminal.talk(f"the link works once, within {link['expires_s']:.0f} s")


def _tunnel(connection: str, port: int) -> str:
    """The ssh command that makes the gateway's port one of the user's own machine."""
    import getpass

    words = connection.split()
    host = words[2] if len(words) == 4 else "THIS_MACHINE"
    ssh_port = f"-p {words[3]} " if len(words) == 4 and words[3] != "22" else ""
    return f"ssh -N {ssh_port}-L {port}:127.0.0.1:{port} {getpass.getuser()}@{host}"


def _has_browser() -> bool:
    """Whether a browser with a window can be expected. A text browser would take over the terminal."""
    if not sys.stdout.isatty() and "BROWSER" not in os.environ:
        return False
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


def _open(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        terminal.talk("no browser could be started; open the link yourself")
