"""The systemd unit that ``sage inference unit`` prints, the documentation shows and users install."""

from __future__ import annotations

import configparser
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sage_inference
from sage_inference.daemon.systemd import unit
from tests.support.command import sage
from tests.support.gateway import clean_environment


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


@pytest.mark.parametrize(
    ("word", "written"),
    [("/opt/my bin/sage", '"/opt/my bin/sage"'), ("/100%/$x", "/100%%/$$x"), ('/a"b', '"/a\\"b"')],
)
def test_odd_paths_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert section(unit([word]), "Service")["ExecStart"] == f"{written} inference start"


@pytest.mark.parametrize(
    ("value", "written"),
    [("/a", "HOME=/a"), ("/a b", '"HOME=/a b"'), ("/$x%", "HOME=/$x%%"), ("/a\nb", '"HOME=/a\\nb"')],
)
def test_values_of_variables_are_quoted_as_systemd_reads_them(value: str, written: str) -> None:
    assert section(unit(["/sage"], environ={"HOME": value}), "Service")["Environment"] == written


def test_the_document_shows_this_unit() -> None:
    page = Path(sage_inference.__file__).parent / "docs" / "operations.md"
    shown = page.read_text().partition("```ini\n")[2].partition("```")[0]
    assert shown == unit(["/home/me/.venv/bin/sage"])


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
