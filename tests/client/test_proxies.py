"""Proxy variables: what they mean for the clients, and what a wrong one looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sage_inference as si
from sage_inference.client.proxies import proxy_for
from sage_inference.client.servers import LookError, look
from tests.client.faces import Clients
from tests.support.command import sage
from tests.support.rogue import RogueEngine, ok
from tests.support.simulators import SimulatedEngine

FAR = "http://192.0.2.10:8000"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


WRONG = {
    "socks5": ("ALL_PROXY", "socks5://127.0.0.1:9"),
    "socks5h": ("all_proxy", "socks5h://user:sesame@127.0.0.1:9"),
    "socks": ("ALL_PROXY", "socks://127.0.0.1:9/"),
    "socks4": ("HTTP_PROXY", "socks4://127.0.0.1:9"),
    "port of letters": ("HTTP_PROXY", "http://proxy.example:sesame"),
    "large port": ("http_proxy", "http://proxy.example:99999"),
    "port 0": ("http_proxy", "http://proxy.example:0"),
    "garbage": ("HTTP_PROXY", "::::"),
    "signs": ("HTTP_PROXY", "http://[sesame"),
    "no host": ("HTTP_PROXY", "http://:3128"),
    "other scheme": ("ALL_PROXY", "ftp://proxy.example:21"),
    "word": ("HTTP_PROXY", "http://"),
}


@pytest.mark.parametrize("how", WRONG)
def test_unusable_proxy_is_named_by_its_variable(
    how: str, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = WRONG[how]
    monkeypatch.setenv(name, value)
    client = clients(FAR, max_retries=0)  # no other attempt would find another proxy
    for stream in (False, True):
        with pytest.raises(si.InferenceConnectionError) as caught:
            client.chat("hi", stream=stream)
        assert name in str(caught.value)
        assert "add 192.0.2.10 to NO_PROXY" in str(caught.value)
        assert "sesame" not in str(caught.value)
    assert client.is_llm_available() is False
    assert client.is_embedding_available() is False


@pytest.mark.parametrize("how", WRONG)
def test_unusable_proxy_does_not_concern_excepted_hosts(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = WRONG[how]
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "192.0.2.10")
    assert proxy_for(FAR) is None
    assert proxy_for("http://127.0.0.1:1") is None


def test_look_and_detection_report_it(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(LookError, match="ALL_PROXY"):
        asyncio.run(look(FAR))
    monkeypatch.setenv("SAGE_UNIFIED_BASE_URL", FAR)
    with pytest.raises(si.InferenceConnectionError):
        clients.auto().chat("hi")


@pytest.mark.parametrize(
    ("url", "exceptions", "excepted"),
    [
        (FAR, "192.0.2.10", True),
        (FAR, "192.0.2.0/24", True),
        (FAR, "192.0.2.10/24", True),
        (FAR, "10.0.0.0/8,192.0.2.0/24", True),
        (FAR, "10.0.0.0/8", False),
        (FAR, "fd00::/8", False),
        (FAR, "192.0.2.0/99", False),
        (FAR, "*", True),
        (FAR, " * ", True),
        (FAR, "a.example, *", True),
        (FAR, "192.0.2.10:8000", True),
        (FAR, "192.0.2.10:8001", False),
        (FAR, "http://192.0.2.10", True),
        (FAR, "2.10", False),
        (FAR, "", False),
        (FAR, ",, ,", False),
        ("http://[fd00::5]:80", "fd00::/8", True),
        ("http://[fd00::5]:80", "[fd00::]/8", True),
        ("http://[fd00::5]:80", "fd00::5", True),
        ("http://[fd00::5]:80", "[fd00::5]", True),
        ("http://[fd00::5]:80", "[FD00:0::5]:80", True),
        ("http://[fd00::5]:80", "[fd00::5]:81", False),
        ("http://[fd00::5]:80", "192.0.2.0/24", False),
        ("http://gpu.lan:80", "gpu.lan", True),
        ("http://gpu.lan:80", "GPU.lan.", True),
        ("http://gpu.lan:80", ".lan", True),
        ("http://gpu.lan:80", "*.lan", True),
        ("http://gpu.lan:80", "lan", True),
        ("http://gpu.lan:80", "x.example  gpu.lan", True),
        ("http://gpu.lan:80", "u.lan", False),
        ("http://gpu.lan:80", ".gpu.lan", True),
        ("http://gpu.lan", "gpu.lan:80", True),
        ("https://gpu.lan", "gpu.lan:443", True),
        ("https://gpu.lan", "gpu.lan:80", False),
        ("http://gpu.lan:80", "::::,[,http://,/,:80,[]", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_exceptions(
    url: str, exceptions: str, excepted: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv(name, exceptions)
    assert (proxy_for(url) is None) is excepted


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_requests_go_through_the_proxy(
    name: str, scheme: str, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '{"choices": [{"message": {"content": "by proxy"}}]}'
    with RogueEngine(ok(answer)) as proxy:
        monkeypatch.setenv(name, f"{scheme}127.0.0.1:{proxy.url.rpartition(':')[2]}")
        assert clients(FAR).chat("hi") == "by proxy"
        assert proxy.requests[0].startswith(f"POST {FAR}/v1/chat/completions".encode())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_this_machines_servers_are_reached_without_it(
    host: str, clients: Clients, vllm: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "socks5://user:sesame@[")
    monkeypatch.setenv("NO_PROXY", "fd00::/8,,")
    if host == "127.0.0.2":
        assert proxy_for("http://127.0.0.2:9") is None
        return
    client = clients(f"http://{host}:{vllm.port}")
    assert client.chat("hi", max_tokens=1)
    assert client.is_llm_available()


def test_a_proxy_that_is_down_is_named(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:sesame@127.0.0.1:9")
    with pytest.raises(si.InferenceConnectionError, match="HTTP_PROXY") as caught:
        clients(FAR).chat("hi")
    assert "sesame" not in str(caught.value)


def test_variables_of_another_scheme_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("TRAVIS_APT_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "")
    assert proxy_for(FAR) is None
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:1")
    found = proxy_for(FAR)
    assert found is not None
    assert found.variable == "ALL_PROXY"


def test_bench_runs_under_any_of_them(vllm: SimulatedEngine, tmp_path: Path) -> None:
    env: dict[str, Any] = {"ALL_PROXY": "socks5://[", "NO_PROXY": "fd00::/8"}
    done = sage(tmp_path, "bench", "--url", vllm.url, "--requests", "3", "--no-ceiling", **env)
    assert done.returncode == 0, done.stderr
