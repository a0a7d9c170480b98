"""A simulated TEI starts, fails and dies as its source does: environment, log, port, exit status."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from sage_inference.simulator.starting.failures_printed import TEI_FAILURES
from tests.support.gateway import free_port
from tests.support.starts import started

READY = "Ready"


def router(port: int, *options: str) -> tuple[str, ...]:
    address = ("--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()))
    return ("--model-id", "BAAI/bge-m3", *address, *options)


def test_phases_are_printed_and_a_vector_is_answered(tmp_path: Path) -> None:
    port = free_port()
    with started("tei-router", *router(port), log=tmp_path / "log") as engine:
        engine.wait_for(READY)
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        vectors = httpx.post(f"{url}/embed", json={"inputs": "hello"}, trust_env=False).json()
        assert len(vectors[0]) == 384
        text, lines = engine.text, engine.lines
        assert engine.stop() == 0
    phases = (
        'Args { model_id: "BAA********"',
        "Starting download",
        "Downloading `tokenizer.json`",
        "Model artifacts downloaded in",
        "tokenization workers",
        "Starting model backend",
        "Downloading `model.safetensors`",
        "Warming up model",
        f"Starting HTTP server: 127.0.0.1:{port}",
        READY,
    )
    found = [next(i for i, line in enumerate(lines) if phase in line) for phase in phases]
    assert found == sorted(found)
    assert "\x1b[32m INFO\x1b[0m" in text  # coloured into a file, too


def test_connection_is_refused_until_it_is_ready(tmp_path: Path) -> None:
    port = free_port()
    with started("tei-router", *router(port, "--load-seconds", "0.5"), log=tmp_path / "log") as engine:
        engine.wait_for("Starting model backend")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))
        engine.wait_for(READY)
        socket.create_connection(("127.0.0.1", port)).close()


def test_environment_sets_what_the_command_line_does_not(tmp_path: Path) -> None:
    port = free_port()
    environ = {
        "HOSTNAME": "127.0.0.1",
        "PORT": str(port),
        "PROMETHEUS_PORT": str(free_port()),
        "API_KEY": "secret",
        "MAX_CLIENT_BATCH_SIZE": "7",
        "NO_COLOR": "1",
    }
    with started("tei-router", "--model-id", "m", log=tmp_path / "log", environ=environ) as engine:
        engine.wait_for(READY)
        url = f"http://127.0.0.1:{port}/info"
        assert httpx.get(url, trust_env=False).status_code == 401
        answer = httpx.get(url, headers={"Authorization": "Bearer secret"}, trust_env=False)
        text = engine.text
    assert answer.json()["max_client_batch_size"] == 7
    assert 'api_key: Some("secret")' in text  # as TEI does
    assert "\x1b" not in text


def test_second_router_with_the_same_prometheus_port_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = router(free_port(), "--prometheus-port", str(taken.getsockname()[1]))
        with started("tei-router", *options, log=tmp_path / "log") as engine:
            assert engine.wait() == 1
            assert "Address already in use" in engine.text


@pytest.mark.parametrize("name", ["no_fast_tokenizer", "wrong_build", "oom_killed"])
def test_failure_prints_its_cause_and_ends_as_tei_does(name: str, tmp_path: Path) -> None:
    failure = TEI_FAILURES[name]
    with started("tei-router", *router(free_port(), "--fail-with", name), log=tmp_path / "log") as engine:
        assert engine.wait() == (-failure.signal or failure.status)
        assert failure.error in engine.text
        assert failure.before in engine.text


def test_arguments_that_it_does_not_know_are_a_usage_error(tmp_path: Path) -> None:
    with started("tei-router", "--model-id", "m", "--gpu", "0", log=tmp_path / "log") as engine:
        assert engine.wait() == 2
