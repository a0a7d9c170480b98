"""Reading the configuration: what holds over what, and how mistakes are told."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config import flags as flag_rules
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from sage_inference.config.secrets import Secret, SecretError
from sage_inference.config.settings import Flags, Settings

FILE = "server: {port: 1001, host: localhost}\nscheduling: {policy: random}\n"


def test_flags_hold_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    environ = {"SAGE_INFERENCE_SERVER__PORT": "1002", "SAGE_INFERENCE_LLM_MODEL": "m"}
    settings = flag_rules.apply(load(path, environ), Flags(llm_model="flag"))
    assert settings.llm_model == "flag"
    assert settings.server.port == 1002
    assert settings.server.host == "localhost"
    assert settings.timeouts == Settings().timeouts


def test_a_default_of_a_flag_does_not_hide_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    assert flag_rules.apply(load(path, {}), Flags()).scheduling.policy == "random"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scheduling:\n  polcy: x", "f:2:3: unknown key scheduling.polcy; did you mean scheduling.policy?"),
        ("a: 1\na: 2", "f:"),
        ("server: {port: true}", "f:1:16: server.port must be a whole number"),
        ("server: {port: 70000}", "from 1 to 65535"),
        ("timeouts: {connect_s: .nan}", "timeouts.connect_s must be"),
        ("server:\n\tport: 1", "f:2:1: "),
        ("instances: [{kind: llm}]", "instances[0].url is missing"),
        ("instances: [{url: 'ftp://h'}]", "instances[0].url"),
        ("- a", "f:1:1: "),
        ("server: 5", "server must be a section"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_meant(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "f")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=200))
def test_no_text_ends_in_anything_but_settings_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, "f"), Settings)


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["server", "port", "instances", "url", "aliases", "api_keys", "key", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(_YAML)
def test_no_document_ends_in_anything_but_settings_or_a_config_error(document: object) -> None:
    import yaml

    with contextlib.suppress(ConfigError):
        assert isinstance(parse(yaml.safe_dump(document), "f"), Settings)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(" sk-1 \n")
    assert Secret(f"file:{key}").reveal() == "sk-1"
    assert Secret("env:K").reveal({"K": "sk-2"}) == "sk-2"
    settings = parse("api_keys: [sk-literal-secret]", "f")
    assert settings.api_keys[0].key == Secret("sk-literal-secret")
    assert "sk-literal-secret" not in repr(settings) + str(settings)
    with pytest.raises(SecretError, match="K is not set"):
        Secret("env:K").reveal({})
