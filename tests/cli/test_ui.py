"""``ui`` from the command line."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import httpx

from sage_inference.cli.schemas import ANSWERS
from sage_inference.daemon.page import FILE
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import running_gateway


def test_the_link_opens_the_page_here_and_over_ssh() -> None:
    with running_gateway() as g:
        shown = sage(g.home, "ui")
        assert shown.returncode == 0, shown.stderr
        address, _, code = shown.stdout.strip().partition("/ui#code=")
        assert "once, within 60 s" in shown.stderr
        assert httpx.post(f"{address}/ui/session", json={"code": code}).status_code == 201
        found = json.loads(sage(g.home, "ui", "--json").stdout)
        assert mistakes(found, ANSWERS["ui"]) == []
        remote = sage(g.home, "ui", SSH_CONNECTION="10.0.0.9 51000 10.0.0.5 2222")
        port = address.rpartition(":")[2]
        assert f"ssh -N -p 2222 -L {port}:127.0.0.1:{port} " in remote.stderr
        assert "@10.0.0.5" in remote.stderr


def test_a_browser_is_started_without_the_code_on_its_command_line() -> None:
    with running_gateway() as g:
        seen = g.home / "seen"
        browser = g.home / "browser"
        browser.write_text(f"#!{sys.executable}\nimport sys\nopen({str(seen)!r}, 'w').write(sys.argv[1])\n")
        browser.chmod(0o755)
        assert sage(g.home, "ui", "--no-open", BROWSER=str(browser)).returncode == 0
        assert not seen.exists()
        shown = sage(g.home, "ui", BROWSER=str(browser))
        assert shown.returncode == 0, shown.stderr
        opened = Path(seen.read_text().removeprefix("file://"))
        assert opened.name == FILE
        assert stat.S_IMODE(opened.stat().st_mode) == 0o600
        assert shown.stdout.strip() in opened.read_text()
        failed = sage(g.home, "ui", BROWSER="/bin/false")
        assert (failed.returncode, failed.stdout.count("#code=")) == (0, 1)
        assert "open the link yourself" in failed.stderr


def test_without_a_gateway_there_is_no_page(tmp_path: Path) -> None:
    failed = sage(tmp_path, "ui")
    assert (failed.returncode, failed.stdout) == (3, "")
    assert "not running" in failed.stderr
    for odd in (["x"], ["--open"], ["--no-open=maybe"]):
        assert sage(tmp_path, "ui", *odd).returncode == 2
