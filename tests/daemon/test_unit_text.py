"""The systemd unit that the documentation shows and users install."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

import sage_inference
from sage_inference.daemon.systemd import unit


def section(text: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser[name])


def test_it_waits_for_readiness_and_reloads_by_the_command() -> None:
    service = section(unit(["/home/me/.local/bin/sage"]), "Service")
    assert service["Type"] == "notify"
    assert service["ExecStart"] == "/home/me/.local/bin/sage inference start"
    assert service["ExecReload"] == "/home/me/.local/bin/sage inference reload"
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.parametrize(
    ("word", "written"),
    [("/opt/my bin/sage", '"/opt/my bin/sage"'), ("/100%/$x", "/100%%/$$x"), ('/a"b', '"/a\\"b"')],
)
def test_odd_paths_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert section(unit([word]), "Service")["ExecStart"] == f"{written} inference start"


def test_the_document_shows_this_unit() -> None:
    page = Path(sage_inference.__file__).parent / "docs" / "operations.md"
    shown = page.read_text().partition("```ini\n")[2].partition("```")[0]
    assert shown == unit(["/home/me/.venv/bin/sage"])
