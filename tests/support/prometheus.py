"""Numbers on a gateway's page of metrics, and real Prometheus programs where they are installed."""

from __future__ import annotations

import re
import shutil
import urllib.request
from collections.abc import Mapping

import pytest

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[str, list[tuple[Mapping[str, str], float]]]


def scrape(url: str) -> Samples:
    """The samples of ``url``'s ``/metrics`` by name."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        return samples(answer.read().decode())


def samples(page: str) -> Samples:
    found: Samples = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.match(line)
            assert match is not None, line
            found.setdefault(match[1], []).append((dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of ``name`` that have ``labels``."""
    return sum(value for has, value in found.get(name, ()) if labels.items() <= has.items())


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``. Skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt install prometheus)")
    return found
