"""Gets a link to the page of the running gateway, and a file that opens it."""

from __future__ import annotations

import contextlib
import os
from html import escape
from pathlib import Path
from typing import Any

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, control
from sage_inference.daemon.errors import DaemonError, Unresponsive

FILE = "ui.html"


class NoPage(DaemonError):  # noqa: N818 - a state rather than an error
    """The running gateway has no page."""

    code = "no_page"


def new_link(paths: Paths, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """``url``, ``expires_s`` and ``port``. Raises ``NoPage``, ``NotRunning``, ``Unresponsive``."""
    info = control.running(paths)
    try:
        status, document = admin.ask(info, "POST", "/admin/ui/link", timeout_s=timeout_s)
        if status == 200:
            url = f"{info.url}/ui#code={document['code']}"
            return {"url": url, "expires_s": float(document["expires_s"]), "port": info.port}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}") from None
    raise NoPage(f"pid {info.pid} answered {status}", "an older gateway may run: sage inference restart")


def write_redirect(paths: Paths, url: str) -> Path:
    """A file that leads a browser to ``url``, and that only its owner may read.

    A browser is not started with the link itself, because other users see the command lines of processes.
    """
    file = paths.state_dir / FILE
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as written:
        written.write(
            '<!doctype html><meta charset="utf-8"><title>sage inference</title>'
            f'<meta http-equiv="refresh" content="0; url={escape(url)}"><a href="{escape(url)}">open the page</a>\n'
        )
    return file
