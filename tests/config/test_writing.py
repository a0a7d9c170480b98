"""Files that cannot be replaced, links to files, and what an edit leaves of a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_inference.config.edit import replace_text, set_value, unset_value
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load
from sage_inference.config.secrets import Secret

Mount = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount one file or folder over another; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount_bind(source: Path, target: Path, *, read_only: bool = False) -> None:
        try:
            done = subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False)
        except OSError as error:
            pytest.skip(f"there is no mount: {error}")
        if done.returncode:
            pytest.skip(f"mount --bind is not allowed: {done.stderr.decode()}")
        mounted.append(target)
        if read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True, capture_output=True)

    yield mount_bind
    for target in reversed(mounted):
        subprocess.run(["umount", target], check=True, capture_output=True)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A file on the host, and the name in a container that it is mounted over."""
    host, inside = tmp_path / "host.yaml", tmp_path / "etc" / "config.yaml"
    inside.parent.mkdir()
    inside.write_text("")
    host.write_text("# mine\nllm_model: old-name-that-is-long  # which\n")
    host.chmod(0o640)
    return host, inside


@pytest.mark.parametrize("change", ["set", "set_long", "unset", "replace"])
def test_a_file_that_is_mounted_by_itself_is_written_in_place(
    places: tuple[Path, Path], mount: Mount, change: str
) -> None:
    host, inside = places
    mount(host, inside)
    before = host.stat()
    if change == "set":
        set_value(inside, "llm_model", "z")
        expected = "# mine\nllm_model: z  # which\n"
    elif change == "set_long":
        set_value(inside, "llm_model", "z" * 5000)
        expected = f"# mine\nllm_model: {'z' * 5000}  # which\n"
    elif change == "unset":
        unset_value(inside, "llm_model")
        expected = "# mine\n"
    else:
        expected = "log: {}\n".replace("log", "logging")
        replace_text(inside, expected)
    assert host.read_text() == expected
    after = host.stat()
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    assert {each.name for each in inside.parent.iterdir()} == {"config.yaml", ".config.yaml.lock"}


def test_the_owner_of_a_mounted_file_stays(places: tuple[Path, Path], mount: Mount) -> None:
    host, inside = places
    mount(host, inside)
    os.chown(host, 54321, 54321)
    set_value(inside, "llm_model", "z")
    assert (host.stat().st_uid, host.stat().st_gid) == (54321, 54321)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_mount_is_named_as_the_cause(places: tuple[Path, Path], mount: Mount, what: str) -> None:
    host, inside = places
    if what == "file":
        mount(host, inside, read_only=True)
    else:
        inside.write_text(host.read_text())
        mount(inside.parent, inside.parent, read_only=True)
    with pytest.raises(ConfigError, match="mounted read-only") as error:
        set_value(inside, "llm_model", "z")
    assert str(inside) in str(error.value)
    assert load(inside, {}).llm_model == "old-name-that-is-long"


def test_links_of_dotfile_managers_stay_links(tmp_path: Path) -> None:
    kept, linked = tmp_path / "dotfiles" / "sage.yaml", tmp_path / "config" / "inference.yaml"
    kept.parent.mkdir()
    linked.parent.mkdir()
    kept.write_text("llm_model: a\n")
    linked.symlink_to(Path("..") / "dotfiles" / "sage.yaml")
    set_value(linked, "llm_model", "b")
    replace_text(linked, "llm_model: c\n")
    assert linked.is_symlink()
    assert kept.read_text() == "llm_model: c\n"


def test_the_links_of_a_config_map_stay(tmp_path: Path) -> None:
    (tmp_path / "..2026_01").mkdir()
    (tmp_path / "..2026_01" / "config.yaml").write_text("llm_model: a\n")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    set_value(tmp_path / "config.yaml", "llm_model", "b")
    assert (tmp_path / "config.yaml").is_symlink()
    assert (tmp_path / "..2026_01" / "config.yaml").read_text() == "llm_model: b\n"


def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    linked = tmp_path / "config.yaml"
    linked.symlink_to("real.yaml")
    set_value(linked, "llm_model", "b")
    assert linked.is_symlink()
    assert (tmp_path / "real.yaml").read_text() == "llm_model: b\n"


@pytest.mark.parametrize("text", ["llm_model: a\n", "", "# only a comment\n", "server:\n  port: 1\n", "{}\n"])
def test_an_edit_keeps_a_byte_order_mark_and_makes_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    for mark in (b"\xef\xbb\xbf", b""):
        path.write_bytes(mark + text.encode())
        set_value(path, "llm_model", "b")
        assert path.read_bytes().startswith(b"\xef\xbb\xbf") == bool(mark)
        assert path.read_bytes().count(b"\xef\xbb\xbf") == bool(mark)
        assert load(path, {}).llm_model == "b"


@pytest.mark.parametrize("text", ["[]\n", "42\n", '"x"\n', "- a\n", "true\n", "|\n  text\n", "[1, 2]\n"])
def test_a_file_that_holds_no_section_of_keys_is_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for change in (lambda: set_value(path, "llm_model", "b"), lambda: unset_value(path, "llm_model")):
        with pytest.raises(ConfigError, match="the file must hold a section of keys"):
            change()
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n", "~\n"])
def test_a_file_that_holds_nothing_takes_a_key_or_says_why_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with contextlib.suppress(ConfigError):
        set_value(path, "llm_model", "b")
        assert load(path, {}).llm_model == "b"
        return
    assert path.read_text() == text


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfsk-1\r\n")
    assert Secret(f"file:{tmp_path / 'key'}").reveal() == "sk-1"
