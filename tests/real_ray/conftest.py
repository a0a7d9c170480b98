"""One cluster for all tests, and the figures that they measure, which the run prints at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_ray.cluster import NoRayError, RealRay, why_not_isolated
from tests.support.gateway import Gateway, running_gateway

_figures: list[str] = []


@pytest.fixture(scope="session")
def figures() -> list[str]:
    return _figures


@pytest.fixture(scope="session")
def ray() -> Iterator[RealRay]:
    """Skips the test, with the reason, where Ray does not start."""
    pytest.importorskip("ray.serve", reason='pip install -e ".[ray]"')
    if (reason := why_not_isolated()) is not None:
        pytest.skip(reason)
    for attempt in (1, 2):
        cluster = RealRay()
        try:
            cluster.start()
        except NoRayError as error:
            cluster.stop()
            if attempt == 2:
                pytest.skip(f"Ray does not start here: {error}")
            continue
        try:
            yield cluster
        finally:
            cluster.stop()
        return


@pytest.fixture(scope="session")
def gateway(ray: RealRay) -> Iterator[Gateway]:
    """A gateway that was started before there was any application."""
    with running_gateway(config={"sources": [{"ray": "http://127.0.0.1:8265"}]}) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures with a real Ray")
        for line in _figures:
            terminalreporter.write_line(line)
