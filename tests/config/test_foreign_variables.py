"""Variables that begin as ours do and that somebody else set."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config import environment
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load
from sage_inference.config.settings import Settings
from sage_inference.config.warnings import warnings_of
from tests.support.command import sage

KUBERNETES = {
    "SAGE_INFERENCE_SERVICE_HOST": "10.43.0.7",
    "SAGE_INFERENCE_SERVICE_PORT": "8000",
    "SAGE_INFERENCE_SERVICE_PORT_HTTP_API": "8000",
    "SAGE_INFERENCE_PORT": "tcp://10.43.0.7:8000",
    "SAGE_INFERENCE_PORT_8000_TCP": "tcp://10.43.0.7:8000",
    "SAGE_INFERENCE_PORT_8000_TCP_ADDR": "10.43.0.7",
    "SAGE_INFERENCE_PORT_8000_TCP_PORT": "8000",
    "SAGE_INFERENCE_PORT_8000_TCP_PROTO": "tcp",
    "SAGE_INFERENCE_PORT_53_UDP": "udp://10.43.0.7:53",
    "SAGE_INFERENCE_METRICS_SERVICE_HOST": "10.43.0.8",
    "SAGE_INFERENCE_METRICS_PORT": "udp://10.43.0.8:9",
}
DOCKER = {
    "SAGE_INFERENCE_NAME": "/consumer/sage-inference",
    "SAGE_INFERENCE_1_NAME": "/app_1/sage-inference_1",
    "SAGE_INFERENCE_ENV_LANG": "C.UTF-8",
    "SAGE_INFERENCE_1_ENV_PATH": "/bin",
    "SAGE_INFERENCE_PORT_8000_TCP_START": "tcp://172.17.0.5:8000",
    "SAGE_INFERENCE_PORT_8000_TCP_PORT_END": "8004",
}


@pytest.mark.parametrize("variables", [KUBERNETES, DOCKER, {"SAGE_INFERENCE_DEBUG": "1"}])
def test_variables_of_links_are_ignored_without_a_word(variables: dict[str, str]) -> None:
    assert environment.apply(Settings(), variables) == Settings()
    assert warnings_of(Settings(), variables) == []


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("SAGE_INFERENCE_VERSION", "0.1", "SAGE_INFERENCE_SECTION__KEY sets section.key"),
        ("SAGE_INFERENCE_PORT", "9000", "did you mean SAGE_INFERENCE_SERVER__PORT?"),
        ("SAGE_INFERENCE_SERVER__PROT", "1", "did you mean SAGE_INFERENCE_SERVER__PORT?"),
        ("SAGE_INFERENCE_NAME", "gateway", "SAGE_INFERENCE_SECTION__KEY sets section.key"),
        ("SAGE_INFERENCE_", "", "SAGE_INFERENCE_SECTION__KEY sets section.key"),
        ("SAGE_INFERENCE_SERVER_PORT", "1", "did you mean SAGE_INFERENCE_SERVER__PORT?"),
    ],
)
def test_another_unknown_variable_gets_a_warning(name: str, value: str, hint: str) -> None:
    assert environment.apply(Settings(), {name: value}) == Settings()
    (remark,) = warnings_of(Settings(), {name: value})
    assert remark.problem == f"variable {name} is ignored: no setting has this name"
    assert remark.hint == hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGE_INFERENCE_SERVER__PORT", "tcp://10.43.0.7:8000"),
        ("SAGE_INFERENCE_API_KEYS", "sk-1"),
        ("SAGE_INFERENCE_SERVER", "x"),
    ],
)
def test_a_setting_with_a_wrong_value_is_an_error(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        environment.apply(Settings(), {name: value})


@pytest.mark.parametrize("command", [("config", "show"), ("config", "validate")])
def test_commands_warn_and_work(tmp_path: Path, command: tuple[str, ...]) -> None:
    ended = sage(tmp_path, *command, **KUBERNETES, SAGE_INFERENCE_VERSION="0.1")  # type: ignore[arg-type]
    assert ended.returncode == 0
    assert ended.stderr.count("warning:") == 1
    assert "variable SAGE_INFERENCE_VERSION is ignored" in ended.stderr


def test_a_gateway_starts_with_them(tmp_path: Path) -> None:
    from tests.support.gateway import free_port

    port = str(free_port())
    try:
        environ = KUBERNETES | {"SAGE_INFERENCE_VERSION": "0.1"}
        started = sage(tmp_path, "start", "--background", "--port", port, **environ)  # type: ignore[arg-type]
        assert started.returncode == 0, started.stderr
        assert "variable SAGE_INFERENCE_VERSION is ignored" in started.stderr
        logged = (tmp_path / "logs" / "inference.log").read_text()
        assert "SAGE_INFERENCE_VERSION" in logged
        assert "SERVICE_HOST" not in logged
    finally:
        sage(tmp_path, "stop")


def test_the_crash_hint_can_be_followed(tmp_path: Path) -> None:
    ended = sage(tmp_path, "config", "show", SAGE_INFERENCE_DEBUG="1")
    assert ended.returncode == 0
    assert ended.stderr == ""
    wrong = sage(tmp_path, "config", "get", "nothing", SAGE_INFERENCE_DEBUG="1")
    assert "Traceback" in wrong.stderr
    assert "Traceback" not in sage(tmp_path, "config", "get", "nothing", SAGE_INFERENCE_DEBUG="0").stderr


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("source", ["env:KEY", "file"])
def test_a_key_in_quotes_gets_a_warning_that_does_not_hold_it(
    tmp_path: Path, quote: str, source: str
) -> None:
    key = f"{quote}sk-hidden{quote}"
    if source == "file":
        (tmp_path / "key").write_text(key)
        source = f"file:{tmp_path / 'key'}"
    (tmp_path / "config.yaml").write_text(f"api_keys: [{{key: '{source}'}}]\n")
    ended = sage(tmp_path, "config", "validate", KEY=key)
    assert ended.returncode == 0
    assert "api_keys[0]: the key begins and ends with a quote" in ended.stderr
    assert "docker --env-file" in ended.stderr
    assert "hidden" not in ended.stderr


@pytest.mark.parametrize("key", ["sk-1", '"', "\"sk'", 'sk"', "'sk-1"])
def test_other_keys_get_no_warning(tmp_path: Path, key: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("api_keys: [{key: 'env:KEY'}]\n")
    assert warnings_of(load(path, {}), {"KEY": key}) == []
