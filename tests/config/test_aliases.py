"""Anchors, aliases and merge keys of YAML: read, bounded, and never changed in two places at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config import tree
from sage_inference.config.edit import set_value, unset_value
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from tests.support.cpu import cpu_time

FLEET = """\
llm_model: &model qwen
embedding_model: *model
instances:
  - &first
    url: http://127.0.0.1:8001  # the first
    kind: llm
    max_concurrent_requests: 4
  - <<: *first
    url: http://127.0.0.1:8002
  - url: http://127.0.0.1:8003
    <<: [{kind: embedding}, *first]
timeouts: &times
  connect_s: 3
"""


def test_aliases_and_merge_keys_stand_for_what_they_name() -> None:
    settings = parse(FLEET, "f")
    assert settings.embedding_model == "qwen"
    assert [each.url[-4:] for each in settings.instances] == ["8001", "8002", "8003"]
    assert [each.kind for each in settings.instances] == ["llm", "llm", "embedding"]
    assert [each.max_concurrent_requests for each in settings.instances] == [4, 4, 4]
    assert settings.timeouts.connect_s == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("llm_model: *nothing", "f:1:12: alias *nothing has no anchor"),
        ("instances: &a [*a]", "f:1:16: alias *a is within the value that it names"),
        ("server: &s {<<: *s}", "is within the value that it names"),
        ("server: {<<: 5}", "f:1:14: << takes a section of keys, or a list of such"),
        ("server: {<<: [[]]}", "<< takes a section of keys"),
        ("server: {'<<': {port: 1}}", "unknown key server.<<"),
        ("server: {<<: {port: 1}, <<: {port: 2}}", "appears twice"),
        ("llm_model: &m x\nserver: {<<: {prt: 1}}", "did you mean server.port?"),
        ("server: !x {port: 1}", "tags (!name) are not supported"),
    ],
)
def test_a_mistake_in_them_has_a_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "f")
    assert says in str(error.value)


def _laughs(kind: str) -> str:
    if kind == "lists":
        return "a0: &a0 [x, x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 15)
        )
    if kind == "merges":
        return "a0: &a0 {k: x}\n" + "".join(
            f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 15)
        )
    if kind == "many":
        return f"a: &a [{', '.join('x' * 1 for _ in range(200))}]\nb: [{', '.join(['*a'] * 20000)}]\n"
    if kind == "deep":
        return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))
    return "a: &a x\nb: [" + ", ".join(["*a"] * 200_000) + "]\n"


@pytest.mark.parametrize("kind", ["lists", "merges", "many", "deep", "words"])
def test_expansion_is_bounded(kind: str) -> None:
    with (
        cpu_time() as spent,
        pytest.raises(ConfigError, match=r"aliases stand for more than|nested more than"),
    ):
        tree.read(_laughs(kind), "f")
    assert spent.seconds < 2


@pytest.mark.parametrize(
    ("key", "value", "was", "becomes"),
    [
        ("embedding_model", "bge", "embedding_model: *model\n", "embedding_model: bge\n"),
        (
            "scheduling.policy",
            "random",
            "  connect_s: 3\n",
            "  connect_s: 3\nscheduling:\n  policy: random\n",
        ),
        ("timeouts.connect_s", "4", "connect_s: 3", "connect_s: 4.0"),
        ("timeouts.drain_s", "4", "connect_s: 3\n", "connect_s: 3\n  drain_s: 4.0\n"),
        ("instances[1].url", "h:9", ":8002\n", None),
        (
            "instances[1].kind",
            "mixed",
            "    url: http://127.0.0.1:8002\n",
            "    url: http://127.0.0.1:8002\n    kind: mixed\n",
        ),
        ("instances[2].name", "c", "*first]\n", "*first]\n    name: c\n"),
    ],
)
def test_what_is_not_shared_can_be_set(
    tmp_path: Path, key: str, value: str, was: str, becomes: str | None
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FLEET)
    set_value(path, key, value)
    if becomes is not None:
        assert path.read_text() == FLEET.replace(was, becomes)
    assert load(path, {}).instances[0] == parse(FLEET, "f").instances[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llm_model", "other"),
        ("instances[0].kind", "mixed"),
        ("instances[0].name", "a"),
        ("instances[0]", "h:9"),
    ],
)
def test_what_is_shared_is_not_changed_for_one(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FLEET)
    with pytest.raises(ConfigError, match="cannot be"):
        set_value(path, key, value)
    assert path.read_text() == FLEET


def test_a_place_within_an_alias_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = (
        "api_keys:\n  - &k {key: env:A, name: a}\n  - {<<: *k, name: b}\ninstances: [&i {url: 'h:1'}, *i]\n"
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"instances\[1\] is an alias"):
        set_value(path, "instances[1].name", "b")
    unset_value(path, "instances[1]")
    assert [each.name for each in load(path, {}).api_keys] == ["a", "b"]
    assert path.read_text() == text.replace(", *i", "")
