"""Changing the file: comments and order stay, and nothing ever breaks it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sage_inference.config.document import commented_file, json_schema, rows
from sage_inference.config.edit import set_value, unset_value, write_new
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, parse
from sage_inference.config.settings import Settings

TEXT = """\
# mine
server:   # where
  port: 9000  # not 8000

  host: localhost
aliases: {a: b}   # short
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    return path


def test_a_value_changes_and_all_else_stays(file: Path) -> None:
    set_value(file, "server.port", "9001")
    assert file.read_text() == TEXT.replace("9000", "9001")


def test_sections_and_entries_are_made_on_the_way(file: Path) -> None:
    set_value(file, "scheduling.policy", "round_robin")
    set_value(file, "instances[0].url", "http://h:1")
    set_value(file, "aliases.gpt-4o", "m")
    settings = load(file, {})
    assert settings.scheduling.policy == "round_robin"
    assert settings.instances[0].url == "http://h:1"
    assert settings.aliases == {"a": "b", "gpt-4o": "m"}
    assert file.read_text().startswith("# mine\nserver:   # where\n")


def test_a_missing_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.yaml"
    set_value(path, "llm_model", "m")
    assert path.read_text() == "llm_model: m\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_unset_removes_the_key_alone(file: Path) -> None:
    assert unset_value(file, "server.host")
    assert not unset_value(file, "server.host")
    assert "host" not in file.read_text()
    assert "# not 8000" in file.read_text()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("scheduling.policy", "best", "must be one of least_loaded"),
        ("scheduling.polcy", "x", "did you mean policy"),
        ("server.port", "many", "server.port must be"),
        ("server.port", "0", "from 1 to 65535"),
        ("server.insecure", "perhaps", "must be true or false"),
        ("instances[5].url", "http://h:1", "has 0 entries"),
        ("instances", "[{urll: x}]", "unknown key"),
        ("", "x", "the key is empty"),
    ],
)
def test_a_bad_value_is_refused_and_the_file_is_as_it_was(
    file: Path, key: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        set_value(file, key, value)
    assert file.read_text() == TEXT


def test_a_corrupted_file_is_reported_with_its_place_and_not_overwritten(file: Path) -> None:
    file.write_text("server: {port: 1\nb: [")
    with pytest.raises(ConfigError, match=r"config\.yaml:\d+:\d+: "):
        set_value(file, "llm_model", "m")
    assert file.read_text() == "server: {port: 1\nb: ["


def test_a_link_is_followed_not_replaced(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    set_value(link, "server.port", "9002")
    assert link.is_symlink()
    assert "9002" in file.read_text()


def test_a_file_is_never_made_twice(file: Path) -> None:
    with pytest.raises(ConfigError, match="there already"):
        write_new(file, commented_file())
    assert file.read_text() == TEXT


_LOOP = """
import sys
from pathlib import Path
from sage_inference.config.edit import set_value
print("go", flush=True)
for n in range(10**9):
    set_value(Path(sys.argv[1]), "aliases.k%d" % (n % 50), "v" * (n % 300 + 1))
"""


def test_a_kill_at_any_instant_leaves_a_valid_file(file: Path) -> None:
    rng = random.Random(7)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", _LOOP, str(file)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            try:
                writer.wait(rng.uniform(0, 0.2))  # the random instant
            except subprocess.TimeoutExpired:
                pass
            os.kill(writer.pid, signal.SIGKILL)
        settings = load(file, {})
        assert settings.server.port == 9000


def test_a_full_disk_leaves_the_old_file_and_no_litter(file: Path) -> None:
    # The smallest "full disk" there is: no file may grow beyond 100 bytes.
    code = (
        "import resource, signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from sage_inference.config.edit import set_value; from sage_inference.config.errors import ConfigError;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: set_value(Path(sys.argv[1]), 'llm_model', 'm' * 500)\n"
        "except ConfigError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in ended.stdout
    assert file.read_text() == TEXT
    assert [p.name for p in file.parent.iterdir() if not p.name.endswith(".lock")] == ["config.yaml"]


def test_the_commented_file_is_valid_and_says_the_defaults() -> None:
    assert parse(commented_file(), "x") == Settings()


def test_every_key_is_in_the_commented_file_the_rows_and_the_schema() -> None:
    text, schema = commented_file(), str(json_schema())
    for row in rows():
        name = row.key.rpartition(".")[2]
        assert name in text
        assert f"'{name}'" in schema
        assert row.doc


def test_every_key_is_in_the_readme_with_its_help() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for row in rows():
        assert f"| `{row.key}` |" in readme
        assert row.doc in readme
