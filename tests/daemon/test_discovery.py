"""``start`` without configured engines: it finds those of this machine, also later, and reports them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_inference.daemon.pidfile import read
from tests.engines.test_search import process_like_vllm
from tests.support.gateway import Gateway, free_port, running_gateway
from tests.support.simulators import simulated_engine

LOOKS = {"SAGE_INFERENCE_DISCOVER": "true"}


def until(fact: Callable[[], object], gateway: Gateway, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.05)


def wait_for(gateway: Gateway, name: str, seconds: float = 20) -> dict[str, object]:
    """The found instance of that name, once it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for each in gateway.instances():
            if each["name"] == name and each["state"] == "ready":
                return each
        time.sleep(0.1)
    raise AssertionError(f"{name} was not found:\n{gateway.log()}")


def chat(gateway: Gateway) -> int:
    body = {"model": "simulated-llm", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    with gateway.client() as client:
        return client.post("/v1/chat/completions", json=body).status_code


def test_an_engine_is_found_served_and_kept(tmp_path: Path) -> None:
    port = free_port()
    name = f"127.0.0.1:{port}"
    with process_like_vllm(tmp_path, "--port", str(port)) as engine, running_gateway(env=LOOKS) as gateway:
        assert wait_for(gateway, name)["found"] is True
        assert gateway.status()["discover"] is True
        assert f"found {name} (vllm, llm), serving simulated-llm" in gateway.log()
        assert chat(gateway) == 200

        # A reload keeps it, and configured instances take its place.
        with gateway.client(headers=gateway.admin) as client, simulated_engine("vllm") as other:
            assert name not in client.post("/admin/reload").json()["removed"]
            assert wait_for(gateway, name)
            (gateway.home / "config.yaml").write_text(f"instances: [{{url: {other.url}}}]")
            assert name in client.post("/admin/reload").json()["removed"]  # it serves until the other one can
            wait_for(gateway, other.url.removeprefix("http://"))
            assert gateway.status()["discover"] is False
        assert engine.poll() is None


def test_an_engine_that_starts_after_the_gateway_is_found(tmp_path: Path) -> None:
    port = free_port()
    with running_gateway(env=LOOKS) as gateway:
        until(lambda: "no engine was found" in gateway.log() or gateway.instances(), gateway)
        with (
            process_like_vllm(tmp_path, "--port", str(port)),
            gateway.client(headers=gateway.admin) as client,
        ):
            client.post("/admin/reload").raise_for_status()  # another test's engine may be served already
            wait_for(gateway, f"127.0.0.1:{port}")
            assert chat(gateway) == 200


@pytest.mark.parametrize("off", ["flag", "setting"])
def test_the_search_can_be_turned_off(tmp_path: Path, off: str) -> None:
    args = ["--no-discover"] if off == "flag" else []
    env = LOOKS if off == "flag" else {}
    port = free_port()
    with (
        process_like_vllm(tmp_path, "--port", str(port)),
        running_gateway(args=args, env=env) as gateway,
    ):
        assert gateway.instances() == []
        assert gateway.status()["discover"] is False
        assert "no engines are configured" in gateway.log()
        info = read(gateway.paths.pid_file)
        assert info is not None
        assert info.flags["no_discover"] is (off == "flag")  # a restart keeps it


def test_configured_engines_are_served_alone(tmp_path: Path) -> None:
    with (
        process_like_vllm(tmp_path, "--port", str(free_port())),
        simulated_engine("tei") as own,
        running_gateway(own.url, env=LOOKS) as gateway,
    ):
        assert [each["url"] for each in gateway.instances()] == [own.url]
        assert not any(each["found"] for each in gateway.instances())
