"""Environment, flags, and the rules between keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config import environment, flags
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from sage_inference.config.settings import Flags, Settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SAGE_INFERENCE_SERVER__PORT", "many", "SAGE_INFERENCE_SERVER__PORT must be a whole number"),
        ("SAGE_INFERENCE_SERVER__INSECURE", "maybe", "must be true or false"),
        ("SAGE_INFERENCE_LOGGING__LEVEL", "inf", "did you mean info?"),
        ("SAGE_INFERENCE_INSTANCES", "h:1", "only single values can be set here"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        environment.apply(Settings(), {name: value})
    assert says in str(error.value)
    assert str(error.value).startswith("environment: ")


def test_the_environment_sets_every_single_value_and_empty_says_nothing() -> None:
    environ = {
        "SAGE_INFERENCE_HOME": "/x",
        "SAGE_UNIFIED_MODEL": "of clients",
        "SAGE_INFERENCE_ADMIN_KEY": "env:ADMIN",
        "SAGE_INFERENCE_TIMEOUTS__CONNECT_S": "1",
        "SAGE_INFERENCE_LOGGING__ACCESS": "true",
        "SAGE_INFERENCE_EMBEDDING_MODEL": "5",
        "SAGE_INFERENCE_LLM_MODEL": "",
    }
    settings = environment.apply(parse("llm_model: file", "f"), environ)
    assert settings.admin_key is not None
    assert settings.admin_key.source == "env:ADMIN"
    assert settings.timeouts.connect_s == 1.0
    assert settings.logging.access
    assert (settings.embedding_model, settings.llm_model) == ("5", "file")


def test_backends_of_flags_are_added_to_those_of_the_file() -> None:
    told = Flags(llm_backends=("h:2", "http://h:3/v1"), embedding_backends=("h:4",))
    settings = flags.apply(parse("instances: [h:1]", "f"), told)
    assert [(i.url, i.kind) for i in settings.instances] == [
        ("h:1", "auto"),
        ("h:2", "llm"),
        ("http://h:3/v1", "llm"),
        ("h:4", "embedding"),
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            Flags(llm_backends=("h:2",), embedding_backends=("http://H:2/v1",)),
            "--embedding-backend http://H:2/v1 is configured already, as instances[1] of kind llm",
        ),
        (Flags(llm_backends=("h:2",), embedding_backends=("h:2",)), "kind: mixed"),
        (Flags(llm_backends=("h",)), "--llm-backend must be http://host:port"),
        (Flags(port=0), "--port must be a whole number from 1 to 65535, not 0"),
        (Flags(scheduling_policy="robin"), "--scheduling-policy must be one of"),
        (Flags(host="http://h"), "--host must be a host name"),
        (Flags(log_level="loud"), "--log-level must be one of"),
        (Flags(api_key=" "), "--api-key must not be empty"),
    ],
    ids=str,
)
def test_a_bad_flag_is_named(told: Flags, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        flags.apply(parse("instances: [h:1]", "f"), told)
    assert says in str(error.value)


@pytest.mark.parametrize("kind", ["auto", "llm", "mixed"])
@pytest.mark.parametrize("url", ["h:1", "http://H:1/v1", "http://h:1/"])
def test_a_backend_that_the_file_has_already_stays_as_it_is_there(kind: str, url: str) -> None:
    before = parse(f"instances: [{{url: 'h:1', kind: {kind}, max_concurrent_requests: 3}}]", "f")
    assert flags.apply(before, Flags(llm_backends=(url, url))) == before


def test_a_key_given_as_flag_takes_the_place_of_the_files() -> None:
    settings = flags.apply(parse("api_keys: [a, b]", "f"), Flags(api_key="c"))
    assert [caller.key and caller.key.reveal() for caller in settings.api_keys] == ["c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("server: {host: 0.0.0.0}", "there are no api_keys"),
        ("instances: ['localhost:8000']", "the gateway's own address"),
        ("instances: ['localhost:1', 'http://127.0.0.1:1/v1']", "is configured already, as instances[0]"),
        ("instances: [{url: 'h:1', name: a}, {url: 'h:2', name: a}]", "are both named a"),
        ("instances: [{url: 'h:1'}, {url: 'h:2', name: 'h:1'}]", "are both named h:1"),
        ("aliases: {a: a}", "aliases.a stands for itself"),
        ("aliases: {a: b, b: c}", "aliases.a stands for b, an alias too"),
        ("api_keys: ['file:/no/keys.txt']", 'api_keys[0]: file "/no/keys.txt" is not readable'),
        ("admin_key: env:NOT_SET", "admin_key: environment variable NOT_SET is not set"),
        ("instances: [{url: 'h:1', api_key: 'a b'}]", "characters that are not allowed in a header"),
    ],
)
def test_a_broken_rule_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        flags.check(parse(text, "f"), {})
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "server: {host: 0.0.0.0, insecure: true}", "server: {host: '::'}\napi_keys: [k]", "aliases: {a: b}"],
)
def test_what_breaks_no_rule_passes(text: str) -> None:
    flags.check(parse(text, "f"), {})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a: \xff", ":1:4: not UTF-8"),
        (b"# ok\nllm_model: '\xe9'", ":2:13: not UTF-8"),
        (b"#" * (1 << 20) + b"#", "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_text_is_told(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as error:
        load(path, {})
    assert says in str(error.value)


def test_a_missing_file_is_an_error_only_where_it_is_required(tmp_path: Path) -> None:
    assert load(tmp_path / "c.yaml", {}) == Settings()
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "c.yaml", {}, required=True)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


def test_engines_behind_prefixes_of_one_address_can_be_given_by_flags() -> None:
    urls = ("http://127.0.0.1:1/llama", "http://127.0.0.1:1/qwen/v1", "http://127.0.0.1:1")
    flags.check(
        flags.apply(Settings(), Flags(llm_backends=urls, embedding_backends=("https://127.0.0.1:1",)))
    )
