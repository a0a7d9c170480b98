"""Changing the file: comments and order stay, and nothing ever breaks it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sage_inference
from sage_inference.config.document import DocumentedKey, commented_file, json_schema, rows
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
        ("scheduling.policy", "best", "must be one of hybrid"),
        ("scheduling.polcy", "x", "did you mean scheduling.policy"),
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


@pytest.mark.parametrize(
    "value",
    [
        "[2024-99-99]",
        "[!!int x]",
        "[" * 500,
        "[" * 500 + "]" * 500,
        "&a [*a]",
        "[\udcff]",
        "{a: 1, a: 2}",
        "",
        "]",
    ],
)
def test_no_value_of_a_list_ends_in_anything_but_a_config_error(file: Path, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        set_value(file, "instances", value)
    assert "\n" not in str(error.value)
    assert file.read_text() == TEXT


@pytest.mark.parametrize(
    "text", ["yes", "5", "1e3", "010", "~/x", "a: b", "# x", "'quoted'", '"quoted"', "é"]
)
def test_text_needs_no_quotes_on_a_command_line(file: Path, text: str) -> None:
    set_value(file, "llm_model", text)
    assert load(file, {}).llm_model == text.strip("'\"")


def test_null_unsets_what_may_be_null_and_nothing_else(file: Path) -> None:
    set_value(file, "llm_model", "m")
    set_value(file, "llm_model", "null")
    assert load(file, {}).llm_model is None
    with pytest.raises(ConfigError, match="must be text, not null"):
        set_value(file, "aliases.a", "null")


def test_the_comment_about_a_key_does_not_go_with_its_neighbour(file: Path) -> None:
    file.write_text(
        "llm_model: a  # first\n# about instances\ninstances:\n- h:1  # one\n# about keys\napi_keys: []\n"
    )
    unset_value(file, "llm_model")
    set_value(file, "instances", "[{url: h:2}, h:3]")
    assert file.read_text() == (
        "# about instances\ninstances:\n  - url: h:2\n  - h:3\n# about keys\napi_keys: []\n"
    )


def test_a_mistake_in_the_file_can_be_mended(file: Path) -> None:
    file.write_text("scheduling: {policy: best}\nserver:\n  prot: 1 # c\n  port: 2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown key server\.prot"):
        set_value(file, "scheduling.policy", "random")
    file.write_text("scheduling: {policy: best}\n")
    set_value(file, "scheduling.policy", "random")
    file.write_text("server:\n  prot: 1 # c\n  port: 2\n")
    assert unset_value(file, "server.prot")
    assert file.read_text() == "server:\n  port: 2\n"
    with pytest.raises(ConfigError, match=r"unknown key server\.prot; did you mean server\.port"):
        unset_value(file, "server.prot")


def test_what_a_section_requires_stays(file: Path) -> None:
    text = "instances:\n  - url: h:1\n    name: a\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"instances\[0\]\.url is missing"):
        unset_value(file, "instances[0].url")
    assert file.read_text() == text


def test_an_entry_written_as_its_one_text_becomes_a_section(file: Path) -> None:
    file.write_text("api_keys:\n  - env:K  # mine\n")
    set_value(file, "api_keys[0].name", "me")
    assert file.read_text() == "api_keys:\n  - key: env:K\n    name: me  # mine\n"


def test_a_secret_is_not_quoted_in_an_error(file: Path) -> None:
    with pytest.raises(ConfigError) as error:
        set_value(file, "api_keys", "[{key: sk-very-secret, name: [sk-very-secret]}]")
    assert "sk-very-secret" not in str(error.value)


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


def test_mode_and_line_breaks_stay(file: Path) -> None:
    file.write_bytes(b"llm_model: a\r\nembedding_model: b\r\n")
    file.chmod(0o640)
    set_value(file, "llm_model", "c")
    assert file.read_bytes() == b"llm_model: c\r\nembedding_model: b\r\n"
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["nul\0l", "x" * 300, "config.yaml/below", "."])
def test_a_place_that_cannot_be_written_is_told(file: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be"):
        set_value(file.parent / name, "llm_model", "m")


def test_changes_made_at_once_are_all_kept(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sage_inference.config.edit import set_value\n"
        "for n in range(10): set_value(Path(sys.argv[1]), f'aliases.{sys.argv[2]}-{n}', 'm')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), str(who)]) for who in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert set(load(file, {}).aliases) == {"a", *(f"{who}-{n}" for who in range(4) for n in range(10))}


def test_a_file_is_never_made_twice(file: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
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
    set_value(file, "llm_model", "m")  # nor does a killed writer's lock or litter stay
    assert {p.name for p in file.parent.iterdir()} == {"config.yaml", ".config.yaml.lock"}


_EVERY_STEP = """
import itertools, os, signal, sys
from pathlib import Path
from sage_inference.config import edit
from sage_inference.config.load import load

path = Path(sys.argv[1])

def dies_at(step):
    lines = itertools.count()
    def trace(frame, event, argument):
        if event == "line" and next(lines) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

write = edit.write
for step in itertools.count():
    pid = os.fork()
    if not pid:
        def traced(target, text):
            dies_at(step)
            write(target, text)
            sys.settrace(None)
        edit.write = traced
        edit.set_value(path, "llm_model", "m" * 300)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert load(path, {}).server.port == 9000, step
    if os.WIFEXITED(status):
        break
    edit.set_value(path, "llm_model", "short")
print(step)
"""


def test_a_kill_at_every_step_of_the_writing_leaves_a_valid_file(file: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _EVERY_STEP, str(file)], capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert int(ended.stdout) > 20  # lines, each of which was the last of one process
    assert load(file, {}).llm_model == "m" * 300


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


def documented(row: DocumentedKey) -> str:
    """The row of the document's table."""
    takes = row.type
    if row.choices:
        one = f"one of {', '.join(f'`{choice}`' for choice in row.choices)}"
        takes = f"{takes}, each {one}" if takes.startswith("map") else one
    plain = row.default if isinstance(row.default, str) else json.dumps(row.default)
    default = "" if row.default in (None, "") else f"; default `{plain}`"
    return f"| `{row.key}` | {row.doc} {takes[0].upper()}{takes[1:]}{default}. |"


def test_the_document_has_each_key_with_what_it_takes_its_default_and_its_help() -> None:
    text = (Path(sage_inference.__file__).parent / "docs" / "configuration.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert table == [documented(row) for row in rows()]


def test_a_key_of_the_commented_file_is_removed_with_its_help_and_nothing_else(tmp_path: Path) -> None:
    text = commented_file()
    file = tmp_path / "config.yaml"
    for row in rows():
        # Entries, and sections within sections, are no lines of their own.
        if "[]" in row.key or ".slo." in row.key:
            continue
        file.write_text(text)
        assert unset_value(file, row.key)
        kept, lost = file.read_text().splitlines(), list[str]()
        for line in text.splitlines():
            if kept[:1] == [line]:
                kept.pop(0)
            else:
                lost.append(line.strip())
        assert not kept, row.key
        name = row.key.rpartition(".")[2]
        *comments, last = lost
        assert last.startswith(f"{name}:"), row.key
        assert comments[0] == f"# {row.doc}" or comments[0].startswith(f"# {row.doc} One of"), row.key
        assert all(line.startswith(("# ", f"# {name}:")) for line in comments)
        assert len(comments) == 1 or comments[1].startswith(f"# {name}:")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into the folders of others")
def test_a_file_that_root_makes_in_a_users_folder_belongs_to_that_user(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 54321, 54322)
    set_value(folder / "config.yaml", "llm_model", "m")
    owners = {each.name: (each.stat().st_uid, each.stat().st_gid) for each in folder.iterdir()}
    assert owners == dict.fromkeys(("config.yaml", ".config.yaml.lock"), (54321, 54322))
