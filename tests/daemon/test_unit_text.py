"""The systemd unit that ``sage inference unit`` prints, the documentation shows and users install."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sage_inference
from sage_inference.daemon.service.unit_file import content_of, marked
from sage_inference.daemon.systemd import Unit, system_unit, user_unit
from tests.support.command import sage
from tests.support.gateway import clean_environment


def unit(command: list[str], **more: Any) -> str:
    return user_unit(Unit(command, **more))


def section(text: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser[name])


def test_it_waits_for_readiness_and_reloads_by_the_command() -> None:
    service = section(unit(["/home/me/.local/bin/sage"]), "Service")
    assert service["Type"] == "notify"
    assert service["ExecStart"] == "/home/me/.local/bin/sage inference start"
    assert service["ExecReload"] == "/home/me/.local/bin/sage inference reload"
    assert service["NoNewPrivileges"] == "yes"


SHELL = '/bin/sh -c "exec \\"$$0\\" \\"$$@\\""'


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/opt/my bin/sage", '"/opt/my bin/sage"'),
        ("/100%/x", "/100%%/x"),
        # systemd refuses quotes in a program's path, and does not expand $$ there.
        ("/100%/$x", f"{SHELL} /100%%/$$x"),
        ('/a"b', f'{SHELL} "/a\\"b"'),
        ("/a\\b", f'{SHELL} "/a\\\\b"'),
    ],
)
def test_odd_paths_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert section(unit([word]), "Service")["ExecStart"] == f"{written} inference start"


@pytest.mark.parametrize(
    ("value", "written"),
    [("/a", "HOME=/a"), ("/a b", '"HOME=/a b"'), ("/$x%", "HOME=/$x%%"), ("/a\nb\t", '"HOME=/a\\x0ab\\x09"')],
)
def test_values_of_variables_are_quoted_as_systemd_reads_them(value: str, written: str) -> None:
    assert section(unit(["/sage"], environ={"HOME": value}), "Service")["Environment"] == written


def test_the_document_shows_this_unit() -> None:
    page = Path(sage_inference.__file__).parent / "docs" / "operations.md"
    shown = page.read_text().partition("```ini\n")[2].partition("```")[0]
    assert shown == unit(["/home/me/.venv/bin/sage"], environment_file="/home/me/.config/sage/inference.env")


@pytest.mark.parametrize(
    ("path", "written"),
    [("/a b/c", "/a b/c"), ("/50%/$x", "/50%%/$x"), ("/a*[b]?", r"/a\*\[b]\?"), (r"/a\b", r"/a\\b")],
)
def test_the_file_of_variables_is_a_pattern(path: str, written: str) -> None:
    assert section(unit(["/sage"], environment_file=path), "Service")["EnvironmentFile"] == f"-{written}"


SYSTEM = Unit(["/usr/bin/true"], environment_file="/etc/sage-inference/inference.env")
UNITS = {
    "user": user_unit(SYSTEM),
    "system": system_unit(SYSTEM, user=None, folder="sage-inference"),
    "system as somebody": system_unit(SYSTEM, user="daemon", folder="sage-inference"),
    "system with a low port": system_unit(SYSTEM, user=None, folder="sage-inference", low_port=True),
}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_verifies_the_unit_and_finds_it_hardened(tmp_path: Path, name: str) -> None:
    file = tmp_path / "sage-inference.service"
    file.write_text(UNITS[name])
    which = "--user" if name == "user" else "--system"
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    for words in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=40", "--no-pager"]):
        call = ["systemd-analyze", which, *words, str(file)]
        checked = subprocess.run(call, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert words[0] == "security" or checked.stderr == ""


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_leaves_engines_what_they_need(name: str) -> None:
    """GPUs, compilers of kernels, models in home directories, sockets in /tmp, other programs' ports."""
    found = section(UNITS[name], "Service")
    closing = {
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "DeviceAllow",
        "ProtectClock",
        "ProtectHome",
        "PrivateTmp",
        "PrivateNetwork",
        "ProtectProc",
        "IPAddressDeny",
    }
    assert not closing & found.keys()
    assert found["KillMode"] == "mixed"


def test_a_unit_that_was_edited_is_recognized() -> None:
    text = marked(UNITS["user"])
    assert content_of(text) == "ours"
    assert content_of(None) == "missing"
    for edited in (text + "\n", text.replace("yes", "no"), UNITS["user"], "", text[1:], text[:40]):
        assert content_of(edited) == "edited"


def words(command: str) -> list[str]:
    """A command line as systemd runs it."""
    return [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(command)]


@pytest.mark.parametrize("name", ["sage", "sage-inference", "sage-gw", "module"])
def test_the_command_in_it_is_the_one_that_was_called(tmp_path: Path, name: str) -> None:
    home = tmp_path / "with space"
    home.mkdir()
    called = [sys.executable, "-m", "sage_inference"]
    if name != "module":
        program = tmp_path / "50% $x" / name
        program.parent.mkdir()
        code = "import sys; from sage_inference._entry import main; sys.exit(main())"
        program.write_text(f"#!{sys.executable}\n{code}\n")
        program.chmod(0o755)
        called = [str(program)]
    environ = clean_environment(home)
    shown = subprocess.run(
        [*called, "inference", "unit"], env=environ, capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    service = section(shown.stdout, "Service")
    assert service["Environment"] == f'"SAGE_INFERENCE_HOME={home}"'
    for key, first in (("ExecStart", "Start the gateway."), ("ExecReload", "Apply the configuration")):
        command = words(service[key])
        assert Path(command[0]).is_absolute()
        found = subprocess.run(
            [*command, "--help"], env=environ, capture_output=True, text=True, cwd="/", check=True
        )
        assert first in found.stdout


def test_systemd_waits_longer_than_running_requests_may_take(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    for drain_s, file in ((30, None), (7.5, None), (600, own)):
        (file or tmp_path / "config.yaml").write_text(json.dumps({"timeouts": {"drain_s": drain_s}}))
        printed = sage(tmp_path, "unit", *(("--config", str(file)) if file else ()))
        service = section(printed.stdout, "Service")
        assert int(service["TimeoutStopSec"]) > drain_s + 10
        assert service["ExecStart"].endswith(f"start --config {own}" if file else "inference start")


def test_a_broken_configuration_prints_no_unit(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server: [")
    printed = sage(tmp_path, "unit")
    assert (printed.returncode, printed.stdout) == (1, "")
    assert printed.stderr.startswith("error: ")
