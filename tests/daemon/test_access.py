"""How a caller on this machine finds the running gateway, its key and its models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.config.paths import Paths
from sage_inference.daemon.access import access
from sage_inference.daemon.errors import DaemonError, NotRunning
from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[SimulatedEngine, SimulatedEngine]]:
    with simulated_engine("vllm") as chat, simulated_engine("tei") as embedding:
        yield chat, embedding


def test_an_open_gateway_needs_no_key_and_says_what_it_serves(
    engines: tuple[SimulatedEngine, SimulatedEngine],
) -> None:
    chat, embedding = engines
    with running_gateway(embedding.url, chat.url) as gateway:
        found = access(gateway.paths)
    assert (found.host, found.port, found.key) == ("127.0.0.1", gateway.port, None)
    assert found.model(embedding=False) == chat.model
    assert found.model(embedding=True) == embedding.model


def test_a_kind_that_nobody_serves_has_no_model(engines: tuple[SimulatedEngine, SimulatedEngine]) -> None:
    with running_gateway(engines[0].url) as gateway:
        assert access(gateway.paths).model(embedding=True) is None


@pytest.mark.parametrize("source", ["env:ACCESS_KEY", "file:key", "literal"])
def test_the_key_is_that_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    (tmp_path / "key").write_text("the-first-key\n")
    monkeypatch.setenv("ACCESS_KEY", "the-first-key")
    kept = {"file:key": f"file:{tmp_path / 'key'}", "literal": "the-first-key"}.get(source, source)
    config = {"api_keys": [{"key": kept}, {"key": "another", "name": "b"}]}
    with running_gateway(config=config, env={"ACCESS_KEY": "the-first-key"}) as gateway:
        assert access(gateway.paths).key == "the-first-key"
        assert access(gateway.paths, key="mine").key == "mine"
        assert "the-first-key" not in repr(access(gateway.paths))


def test_a_key_in_another_shells_environment_is_told() -> None:
    config = {"api_keys": [{"key": "env:ACCESS_KEY"}], "admin_key": "env:ACCESS_KEY"}
    with (
        running_gateway(config=config, env={"ACCESS_KEY": "the-first-key"}) as gateway,
        pytest.raises(DaemonError) as error,
    ):
        access(gateway.paths)
    assert "ACCESS_KEY is not set" in str(error.value)
    assert "--api-key" in str(error.value.hint)


def test_secrets_of_engines_need_not_be_readable_here() -> None:
    instance = {"url": "127.0.0.1:1", "api_key": "env:ACCESS_KEY"}
    config = {"api_keys": [{"key": "literal"}], "instances": [instance]}
    with running_gateway(
        config=config, env={"ACCESS_KEY": "the-first-key"}, await_instances=False
    ) as gateway:
        assert access(gateway.paths).key == "literal"


def test_a_key_that_is_written_nowhere_is_asked_for() -> None:
    def found(gateway: Gateway) -> str:
        with pytest.raises(DaemonError) as error:
            access(gateway.paths)
        return str(error.value.hint)

    with running_gateway(args=("--api-key", "literal")) as gateway:
        assert "--api-key" in found(gateway)
        assert access(gateway.paths, key="literal").key == "literal"


def test_a_gateway_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        access(Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)}))
