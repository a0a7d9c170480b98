"""All mistakes of a configuration in one run, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config.review import mistakes_of
from tests.support.command import sage

TEXT = """\
llm_modle: a
server:
  prot: 1
  port: many
instances:
  - kind: llm
  - {url: 'ftp://h', kynd: llm}
  - 5
aliases: [a]
scheduling: 5
timeouts: {connect_s: -1}
"""


def test_each_mistake_is_reported_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    found = mistakes_of(path, {"SAGE_INFERENCE_SERVER__PORT": "x", "SAGE_INFERENCE_API_KEYS": "k"})
    assert [(each.line, each.key) for each in found] == [
        (1, "llm_modle"),
        (3, "server.prot"),
        (4, "server.port"),
        (6, "instances[0].url"),
        (7, "instances[1].url"),
        (7, "instances[1].kynd"),
        (8, "instances[2]"),
        (9, "aliases"),
        (10, "scheduling"),
        (11, "timeouts.connect_s"),
        (None, "SAGE_INFERENCE_API_KEYS"),
        (None, "SAGE_INFERENCE_SERVER__PORT"),
    ]


def test_validate_prints_them_all(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TEXT)
    ended = sage(tmp_path, "config", "validate")
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 10
    assert "config.yaml:3:3: unknown key server.prot; did you mean server.port?" in errors[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "the file must hold a section of keys"),
        ("a: [\n", "not YAML"),
        ("instances: [{url: 'h:1'}, {url: 'h:1'}]\n", "is configured already, as instances[0]"),
        ("aliases: {a: a}\n", "stands for itself"),
        ("server: {host: 0.0.0.0}\n", "reachable from other machines"),
    ],
)
def test_what_cannot_be_read_on_and_rules_between_keys_are_reported(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    (found,) = mistakes_of(path, {})
    assert says in str(found)


@pytest.mark.parametrize("text", ["", "llm_model: a\n", "instances: ['h:1', {url: 'h:2'}]\n", "null\n"])
def test_a_valid_file_has_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert mistakes_of(path, {"PATH": "/bin", "SAGE_INFERENCE_VERSION": "1"}) == []
    path.unlink()
    assert mistakes_of(path, {}) == []
    (missing,) = mistakes_of(path, {}, required=True)
    assert missing.problem == "there is no such file"
