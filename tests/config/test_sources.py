"""The settings of sources: exactly one place each, and mistakes are named with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config.check import check, kept_secrets
from sage_inference.config.document import commented_file, json_schema, masked
from sage_inference.config.edit import set_value
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from sage_inference.config.review import mistakes_of
from sage_inference.config.settings import SourceSettings
from sage_inference.config.source_rules import label_of
from sage_inference.gateway.found_engines import is_wanted

EVERY_KEY = """\
sources:
  - ray: http://head:8265
    application: engines
    interval_s: 0.2
    token: env:TOKEN
    drain_s: 0
    kind: llm
    engine: vllm
    model: m
    api_key: env:KEY
    max_concurrent_requests: 8
    max_batched_tokens: 4096
    kv_cache_tokens: 100000
  - file: /shared/engines.yaml
  - {dns: "engines.lan:8001"}
  - dns: _vllm._tcp.engines.lan
"""


def test_every_key_is_read_and_each_source_has_a_name_of_its_own() -> None:
    settings = parse(EVERY_KEY, "f")
    check(settings, {"TOKEN": "t", "KEY": "k"})
    first, second, *_ = settings.sources
    assert (first.application, first.interval_s, first.drain_s) == ("engines", 0.2, 0.0)
    assert second == SourceSettings(file="/shared/engines.yaml")
    assert (second.interval_s, second.drain_s) == (2.0, 30.0)
    assert list(map(label_of, settings.sources)) == [
        "ray http://head:8265 engines",
        "file /shared/engines.yaml",
        "dns engines.lan:8001",
        "dns _vllm._tcp.engines.lan",
    ]
    assert [where for where, _ in kept_secrets(settings)] == ["sources[0].token", "sources[0].api_key"]
    assert not is_wanted(settings)


@pytest.mark.parametrize(
    ("entry", "place", "problem"),
    [
        ("{}", "2:5", "sources[0].ray is missing; write ray: http://head:8265, or one of file and dns"),
        ("{interval_s: 3}", "2:5", "sources[0].ray is missing"),
        ("{ray: 'http://h:1', dns: 'h:1'}", "2:25", "sources[0] has both ray and dns; leave one"),
        (
            "{dns: 'h:1', file: f, ray: 'http://h:1'}",
            "2:27",
            "sources[0] has ray and file and dns; leave all but",
        ),
        ("http://head:8265", "2:5", "sources[0] must be a section of keys"),
        ("{ray: 'head:8265'}", "2:11", "sources[0].ray must be http://host:port"),
        ("{ray: 'http://user:secret@head'}", "2:11", "sources[0].ray must not hold user:password@"),
        ("{dns: engines.lan}", "2:11", "sources[0].dns must be host:port, or _name._tcp.domain"),
        ("{dns: 'http://h:1'}", "2:11", "sources[0].dns must be host:port"),
        ("{dns: _vllm.engines.lan}", "2:11", "sources[0].dns must be _name._tcp.domain"),
        ("{dns: 'h:99999'}", "2:11", "sources[0].dns the port is not a number"),
        ("{file: f, interval_s: 0.1}", "2:27", "sources[0].interval_s must be a number from 0.2 to 3600"),
        ("{file: f, drain_s: -1}", "2:24", "sources[0].drain_s must be a number"),
        ("{file: f, intervall_s: 1}", "2:15", "unknown key sources[0].intervall_s; did you mean"),
    ],
)
def test_a_mistake_is_named_with_its_place(entry: str, place: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"sources:\n  - {entry}\n")
    [mistake] = mistakes_of(file, {})
    assert str(mistake).startswith(f"{file}:{place}: {problem}"), mistake
    assert "secret" not in str(mistake)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{ray: null}]", "sources[0] has none of ray, file, dns"),
        ("[{file: f, token: t}]", "sources[0].token is for ray, and sources[0] has file"),
        ("[{file: f}, {file: f, interval_s: 9}]", "sources[1] and sources[0] are the same: file f"),
        ("[{file: f, api_key: env:NO_SUCH_KEY}]", "sources[0].api_key: environment variable NO_SUCH_KEY"),
    ],
)
def test_rules_between_keys(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(parse(f"sources: {text}", "f"), {})
    assert problem in str(error.value)


def test_keys_can_be_set_one_by_one_and_secrets_are_masked(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    set_value(file, "sources", "[{file: /shared/engines.yaml}]")
    set_value(file, "sources[0].drain_s", "5")
    set_value(file, "sources[0].api_key", "sk-secret")
    [source] = load(file, {}).sources
    assert (source.file, source.drain_s) == ("/shared/engines.yaml", 5.0)
    assert masked(load(file, {}))["sources"][0]["api_key"] == "***"
    with pytest.raises(ConfigError, match="has both file and dns"):
        set_value(file, "sources[0].dns", "h:1")


def test_the_example_of_the_commented_file_is_valid() -> None:
    lines = commented_file().splitlines()
    begin = lines.index("# sources:")
    example = [line.removeprefix("# ") for line in lines[begin : lines.index("sources: []")]]
    [source] = parse("\n".join(example), "f").sources
    assert source.ray == "http://head:8265"


def test_the_schema_for_editors_wants_exactly_one_place() -> None:
    entry = json_schema()["properties"]["sources"]["items"]
    assert entry["oneOf"] == [{"required": ["ray"]}, {"required": ["file"]}, {"required": ["dns"]}]
