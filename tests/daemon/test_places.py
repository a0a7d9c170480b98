"""Files of the gateway in places that cannot hold them: one line with the path and a hint, in every command."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_inference.cli.main import main
from sage_inference.config.secrets import Secret, SecretError
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port

COMMANDS = {
    "start": ("start", "--background", "--port", "1"),
    "stop": ("stop",),
    "status": ("status",),
    "restart": ("restart",),
    "reload": ("reload",),
}
OWN_CODE = {"status": 4}


def state_is_a_file(home: Path) -> Path:
    home.mkdir()
    (home / "state").write_text("")
    return home / "state"


def lock_is_a_folder(home: Path) -> Path:
    lock = home / "state" / "inference.lock"
    lock.mkdir(parents=True)
    return lock


def lock_is_a_pipe(home: Path) -> Path:
    lock = home / "state" / "inference.lock"
    lock.parent.mkdir(parents=True)
    os.mkfifo(lock)
    return lock


def lock_is_a_link(home: Path) -> Path:
    lock = home / "state" / "inference.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(lock)
    return lock


def home_is_a_loop_of_links(home: Path) -> Path:
    home.symlink_to(home)
    return home / "state"


def home_is_a_device(home: Path) -> Path:
    home.symlink_to("/dev/null")
    return home / "state"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "spoil",
    [
        state_is_a_file,
        lock_is_a_folder,
        lock_is_a_pipe,
        lock_is_a_link,
        home_is_a_loop_of_links,
        home_is_a_device,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_an_unusable_place_is_named_with_a_hint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Path],
    command: str,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(home))
    place = spoil(home)
    assert_named(command, main(["inference", *COMMANDS[command]]), capsys.readouterr().err, str(place))


@pytest.mark.parametrize("command", [*COMMANDS, "logs", "config"])
@pytest.mark.parametrize("home", ["~nobody42/x", "~nobody42"])
def test_the_home_of_nobody_is_named_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str, command: str
) -> None:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", home)
    assert_named(
        command, main(["inference", *COMMANDS.get(command, (command,))]), capsys.readouterr().err, home
    )


def assert_named(command: str, code: int, said: str, place: str) -> None:
    assert code == OWN_CODE.get(command, 1), said
    assert place in said
    assert "hint: " in said
    assert "SAGE_INFERENCE_HOME" in said
    assert "this is a bug" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "\udcff" * 300], ids=["ascii", "utf-8", "no text"])
def test_a_name_that_is_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path / name))
    for command, words in COMMANDS.items():
        code = main(["inference", *words])
        shown = name[:50].encode("utf-8", "backslashreplace").decode()
        assert_named(command, code, capsys.readouterr().err, shown)


@pytest.mark.parametrize("command", ["start", "config"])
def test_a_configuration_file_of_nobody_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path))
    words = {"start": ["start"], "config": ["config", "show"]}[command]
    assert main(["inference", *words, "--config", "~nobody42/c.yaml"]) == 2
    assert "--config: ~nobody42/c.yaml cannot be used: there is no user 'nobody42'" in capsys.readouterr().err


def test_a_folder_in_place_of_the_pidfile_stops_a_start_and_is_named(tmp_path: Path) -> None:
    pidfile = tmp_path / "state" / "inference.json"
    pidfile.mkdir(parents=True)
    for words in (("start", "--background", "--port", str(free_port())), ("stop",)):
        ended = sage(tmp_path, *words)
        assert ended.returncode == 1
        assert f"pidfile {pidfile} cannot be" in ended.stderr
        assert "SAGE_INFERENCE_HOME" in ended.stderr


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("command", ["start", "status"])
def test_a_file_system_without_locks_is_named(tmp_path: Path, command: str, error: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "inference.lock").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.seccomp", str(error), *COMMANDS[command]],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "no seccomp filter here" in ended.stderr:
        pytest.skip("the kernel takes no filter of system calls")
    assert_named(command, ended.returncode, ended.stderr, str(tmp_path / "state" / "inference.lock"))
    assert "has no locks" in ended.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user id that nobody has")
@pytest.mark.parametrize("command", ["status", "start", "config", "logs"])
def test_a_user_without_a_home_is_pointed_to_the_variable(tmp_path: Path, command: str) -> None:
    code = f"""
import os, sys
os.setresuid(54321, 0, 0)
from sage_inference.cli.main import main
sys.exit(main(["inference", {command!r}]))
"""
    environ = clean_environment(tmp_path)
    for name in ("HOME", "SAGE_INFERENCE_HOME"):
        environ.pop(name, None)
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert_named(command, ended.returncode, ended.stderr, "user id 54321 has no home directory")


@pytest.mark.parametrize(
    ("where", "says"),
    [("~nobody42/key", "there is no user 'nobody42'"), ("a\0b", "NUL"), ("/", "Is a directory")],
    ids=["nobody", "NUL", "folder"],
)
def test_a_key_file_that_names_no_place_is_a_secret_error(where: str, says: str) -> None:
    with pytest.raises(SecretError, match=says):
        Secret(f"file:{where}").reveal()


STREAMS = {
    "no output": ">&-",
    "no errors": "2>&-",
    "no input": "<&-",
    "none": "<&- >&- 2>&-",
    "full errors": "2>/dev/full",
}


@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS)
def test_closed_standard_streams_are_like_the_null_device(tmp_path: Path, streams: str) -> None:
    ended = in_shell(tmp_path, f"status {streams}")
    assert ended.returncode == 3
    assert ended.stderr == ""
    assert ended.stdout == ("" if ">&- " in f"{streams} ".replace("2>&-", "") else "not running\n")


def test_a_background_gateway_starts_without_standard_streams(tmp_path: Path) -> None:
    ended = in_shell(tmp_path, f"start --background --port {free_port()} <&- >&- 2>&-")
    try:
        assert ended.returncode == 0
        assert sage(tmp_path, "status").returncode == 0
        found = {file.name for file in (tmp_path / "state").iterdir()}
        assert found - {"usage.reserve"} == {"inference.json", "inference.lock"}
    finally:
        sage(tmp_path, "stop", "--force")


def test_a_full_standard_output_is_named(tmp_path: Path) -> None:
    ended = in_shell(tmp_path, "status >/dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: standard output: no space left on device\n"


@pytest.mark.parametrize(
    "words", ["status --json", "--help", "config show -o yaml", "config show --json", "config path", "stop"]
)
def test_a_full_standard_output_is_named_whatever_is_printed(tmp_path: Path, words: str) -> None:
    ended = in_shell(tmp_path, f"{words} >/dev/full")
    assert (ended.returncode, ended.stderr) == (1, "error: standard output: no space left on device\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("words", ["config set llm_model x", "config init", "start --background"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, words: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with contextlib.suppress(OSError):
            (disk / "fill").write_bytes(b"x" * 65536)
        ended = in_shell(disk, words)
        assert ended.returncode == 1
        [error] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert re.search(rf"{disk}/\S+.*: No space left on device$", error)
        assert not (disk / "config.yaml").exists()
    finally:
        sage(disk, "stop", "--force")
        subprocess.run(["umount", str(disk)], check=True)


def in_shell(home: Path, words: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {sys.executable} -m sage_inference inference {words}"
    return subprocess.run(
        ["sh", "-c", command],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
