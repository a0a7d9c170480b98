"""One browser, and one gateway before two engines, for all tests of the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import InstanceSettings, ServerSettings
from sage_inference.gateway.live import feed
from tests.page.browser import installed_browser
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with installed_browser() as found:
        yield found


@pytest.fixture(scope="package")
def engines() -> Iterator[tuple[SimulatedEngine, SimulatedEngine]]:
    with (
        simulated_engine("vllm", "--model", "chat-model") as chat,
        simulated_engine("tei", "--model", "vectors") as vectors,
    ):
        yield chat, vectors


@pytest.fixture(scope="package")
def g(
    browser: Browser,
    engines: tuple[SimulatedEngine, SimulatedEngine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InProcess]:
    chat, vectors = engines
    instances = (
        InstanceSettings(url=chat.url, name="first"),
        InstanceSettings(url=vectors.url, name="second/vectors"),
    )
    # Even where the API is open to all pages, /admin is not.
    server = ServerSettings(cors_origins=("*",))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(feed, "PERIOD_S", 0.2)
        patch.setattr(InProcess, "usage_file", tmp_path_factory.mktemp("usage") / "usage.db")
        running = stack.enter_context(gateway(*instances, admin_key=Secret("the-admin-key"), server=server))
        running.until(lambda r: all(e.instance.is_available for e in r.gateway.engines.values()))
        yield running
