"""One gateway before simulated engines for all clients, and a guard against calls to other machines."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.table import line_of, made, missing
from tests.clients.wishes import RERANKER
from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import simulated_engine

# Clients read these at import. They turn off telemetry, and files fetched from elsewhere.
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # otherwise a .env file in any parent folder is read
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "AI_SDK_LOG_WARNINGS": "false",
}
HERE = Path(__file__).parent
_FOREIGN = ("OPENAI_", "ANTHROPIC_", "LLM_", "CO_API", "LANGCHAIN_", "LANGSMITH_", "LITELLM_", "HF_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        client = getattr(getattr(item, "module", None), "CLIENT", None)
        if item.path.parent == HERE and client is not None and (reason := missing(client)):
            item.add_marker(pytest.mark.skip(reason))


class Elsewhere:
    """Refuses connections and name look-ups beyond this machine while it is on, and remembers them."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._audited)

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or event not in ("socket.connect", "socket.getaddrinfo"):
            return
        address = args[0] if event == "socket.getaddrinfo" else args[1]
        host = address[0] if isinstance(address, tuple) else address
        if event == "socket.connect" and not isinstance(address, tuple):
            return  # a Unix socket
        name = host.decode() if isinstance(host, bytes) else host
        if not _is_here(name):
            self.seen.append(str(name))
            raise socket.gaierror(f"a test of clients may not reach {name}")


def _is_here(host: str | None) -> bool:
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="package")
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture(scope="package")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment of a newcomer: no keys, no proxies, no telemetry, an empty home for settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        patch.setenv("LLM_USER_PATH", str(tmp_path_factory.mktemp("llm")))
        yield


@pytest.fixture(autouse=True)
def only_this_machine(elsewhere: Elsewhere, environment: None) -> Iterator[None]:
    """A client that works only with calls to other machines does not work behind a firewall."""
    elsewhere.on = True
    elsewhere.seen.clear()
    try:
        yield
    finally:
        elsewhere.on = False
    assert not elsewhere.seen


@pytest.fixture(scope="package")
def gateway(environment: None) -> Iterator[Gateway]:
    with (
        simulated_engine("vllm", "--speed", "instant") as llm,
        simulated_engine("tei", "--speed", "instant") as embedder,
        simulated_engine(
            "tei", "--model-type", "reranker", "--model", RERANKER, "--speed", "instant"
        ) as reranker,
        running_gateway(llm.url, embedder.url, reranker.url) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="package")
def documented(gateway: Gateway) -> Callable[[str], str]:
    """The line of a client in the table, with the address of the gateway."""
    return partial(line_of, url=gateway.url)


@pytest.fixture
def client(documented: Callable[[str], str], request: pytest.FixtureRequest) -> Any:
    """What the documented line of the module's ``CLIENT`` makes."""
    return made(documented(request.module.CLIENT))


@pytest.fixture
def llm_folder() -> Path:
    return Path(os.environ["LLM_USER_PATH"])
