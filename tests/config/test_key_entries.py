"""Keys in the configuration file: comments and forms stay, and no edit breaks the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.config.errors import ConfigError
from sage_inference.config.key_entries import (
    add_entry,
    entries_of,
    new_key,
    remove_entries,
)
from sage_inference.config.key_hash import hash_of, id_of
from sage_inference.config.load import load, parse
from sage_inference.config.settings import KeyLimitSettings

DIGEST = hash_of("k")

FORMS = {
    "no file": None,
    "empty": "",
    "other keys only": "# mine\nllm_model: m  # ours\n",
    "an empty list": "# mine\napi_keys: []  # nobody yet\nllm_model: m\n",
    "a block of texts": "api_keys:\n  # the first\n  - sk-one  # of bob\nllm_model: m  # ours\n",
    "a list in brackets": "api_keys: [sk-one, {name: bob, key: sk-two}]  # both\nllm_model: m\n",
    "a block of sections": "api_keys:\n- name: bob  # his\n  key: env:BOB\n\n# ours\nllm_model: m\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_comes_and_goes_and_all_else_stays(form: str, tmp_path: Path) -> None:
    path, before = tmp_path / "config.yaml", FORMS[form]
    if before is not None:
        path.write_text(before)
    earlier = load(path, {}).api_keys
    first = add_entry(path, "ada", DIGEST, {"limits": {"requests_per_minute": 7, "models": ["q*"]}})
    assert first is not bool(earlier)
    settings = load(path, {})
    assert settings.api_keys[:-1] == earlier
    added = settings.api_keys[-1]
    assert (added.name, added.key_hash, added.key) == ("ada", DIGEST, None)
    assert added.limits == KeyLimitSettings(requests_per_minute=7, models=("q*",))
    assert settings.llm_model == (None if not before else parse(before, "").llm_model)
    for line in (before or "").splitlines():
        comment = line.partition("#")[2]
        assert comment in path.read_text()
    gone = remove_entries(path, ["ada"], all_of_name=False, leaves_open=True)
    assert [entry.name for entry in gone] == ["ada"]
    assert load(path, {}).api_keys == earlier
    if earlier:
        assert path.read_text() == before


def test_a_second_key_of_a_name_has_the_settings_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "api_keys:\n  - {name: ada, key: sk-a, weight: 2, priority: low, limits: {tokens_per_day: 9}}\n"
    )
    add_entry(path, "ada", DIGEST, {}, again=True)
    one, two = load(path, {}).api_keys
    assert (one.limits, one.weight, one.priority) == (two.limits, two.weight, two.priority)
    with pytest.raises(ConfigError, match=f"2 keys have the name 'ada': {id_of(hash_of('sk-a'))}"):
        remove_entries(path, ["ada"], all_of_name=False, leaves_open=False)
    [gone] = remove_entries(path, [id_of(DIGEST).upper()], all_of_name=False, leaves_open=False)
    assert gone.id == id_of(DIGEST)
    add_entry(path, "ada", DIGEST, {}, again=True)
    add_entry(path, "bob", hash_of("b"), {})
    assert len(remove_entries(path, ["ada"], all_of_name=True, leaves_open=False)) == 2
    assert [entry.name for entry in entries_of(load(path, {}).api_keys)] == ["bob"]


@pytest.mark.parametrize(
    ("name", "again", "said"),
    [
        ("ada", False, "there is a key with the name ada"),
        ("bob", True, "there is no key with the name bob yet"),
        ("default", False, "cannot be the name"),
        ("deadbeef", False, "cannot be the name"),
        ("a b", False, "cannot be the name"),
        ("-a", False, "cannot be the name"),
        ("a\n", False, "cannot be the name"),
        ("a" * 65, False, "cannot be the name"),
        ("", False, "cannot be the name"),
    ],
)
def test_a_key_that_cannot_be_added_changes_nothing(
    name: str, again: bool, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("api_keys: [{name: ada, key: sk-a}]\n")
    with pytest.raises(ConfigError, match=said):
        add_entry(path, name, DIGEST, {}, again=again)
    assert path.read_text() == "api_keys: [{name: ada, key: sk-a}]\n"


@pytest.mark.parametrize(
    ("text", "which", "open_", "said"),
    [
        ("api_keys: [{name: a, key: k}]\n", "b", True, "no key has the name or id 'b'"),
        ("llm_model: m\n", "b", True, "no key has the name or id 'b'"),
        ("api_keys: [{name: a, key: k}]\n", "a", False, "no key would be left"),
        ("api_keys: [k]\nserver: {host: 0.0.0.0}\n", "default", True, "reachable from other machines"),
        ("api_keys: [k\n", "a", True, "did not find expected"),
    ],
)
def test_a_key_that_cannot_be_taken_out_changes_nothing(
    text: str, which: str, open_: bool, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        remove_entries(path, [which], all_of_name=False, leaves_open=open_)
    assert path.read_text() == text


def test_keys_are_long_and_never_alike() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) >= 48 and key.startswith("sk-sage-") for key in made)
