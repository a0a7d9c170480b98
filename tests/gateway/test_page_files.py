"""The files of the page: what they load, what they may not do, and the vendored library."""

from __future__ import annotations

import hashlib
import re

import pytest

from sage_inference.gateway.ui.files import SECURITY, page_files

OURS = {name: each.content.decode() for name, each in page_files().items() if not name.startswith("uplot")}
# uPlot 1.6.32 as npm has it: dist/uPlot.iife.min.js and dist/uPlot.min.css.
VENDORED = {
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@pytest.mark.parametrize("name", VENDORED)
def test_the_chart_library_is_the_published_one(name: str) -> None:
    assert hashlib.sha256(page_files()[name].content).hexdigest() == VENDORED[name]


def test_the_chart_library_comes_with_its_licence_which_is_not_served() -> None:
    from importlib import resources

    licence = resources.files("sage_inference.gateway.ui").joinpath("static", "uplot.LICENSE").read_text()
    assert "Leon Sorokin" in licence
    assert "MIT" in licence
    assert "uplot.LICENSE" not in page_files()


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name, source in OURS.items():
        addresses = set(
            re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*|\s//\s.*", "", source, flags=re.M))
        )
        assert addresses - {"http://www.w3.org"} == set(), name


def test_the_page_has_no_inline_script_or_style() -> None:
    page = OURS["index.html"]
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", page) == []
    assert "unsafe" not in SECURITY["content-security-policy"]


@pytest.mark.parametrize("name", sorted(name for name in OURS if name.endswith(".js")))
def test_no_script_makes_markup_or_code_of_text(name: str) -> None:
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc|\.style\b",
        OURS[name],
    )
    assert found == []


def test_every_module_that_is_imported_is_there() -> None:
    wanted = {
        each
        for source in OURS.values()
        for each in re.findall(r'from "\./([\w.]+)"|ui/([\w]+\.\w+)"', source)
    }
    assert {one or other for one, other in wanted} <= page_files().keys()
