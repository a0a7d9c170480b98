"""The commands of ``service`` where there is no manager of systemd, and wrong uses of them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from sage_inference.cli.schemas import ERROR
from sage_inference.daemon.service.environment_file import create, names_in, remove_unused, values_in
from sage_inference.daemon.service.install import uninstall
from sage_inference.daemon.service.manager import ServiceError, absence
from sage_inference.daemon.service.plan import plan
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.other_user import as_nobody


@pytest.mark.parametrize("deed", ["install", "uninstall", "status"])
def test_without_a_user_manager_there_is_an_error_with_its_remedy(tmp_path: Path, deed: str) -> None:
    failed = sage(tmp_path, "service", deed, "--json", XDG_RUNTIME_DIR=str(tmp_path), HOME=str(tmp_path))
    assert failed.returncode == 1
    error = json.loads(failed.stdout)
    assert mistakes(error, ERROR) == []
    assert error["error"]["code"] == "service"
    assert "no user manager" in error["error"]["message"] or "no systemctl" in error["error"]["message"]
    assert failed.stderr.startswith("error: ")
    assert not list(tmp_path.rglob("*.service"))


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        (("service",), 2, "install"),
        (("service", "instal"), 2, "did you mean install"),
        (("service", "install", "--as", "root"), 2, "--as is for a system service"),
        (("service", "install", "--system", "--as", "no-such-user"), 1, "there is no user no-such-user"),
        (("service", "install", "--system", "--as", "a\nb"), 1, "there is no user"),
        (("service", "install", "--config", ""), 2, "the name of the configuration file is empty"),
        (("service", "install", "--config", "~nobody-at-all/x"), 2, "cannot be used"),
        (("service", "status", "extra"), 2, "extra"),
        (("unit", "--system", "--config", "/no/such/file"), 1, "no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_use_is_an_error_and_no_traceback(
    tmp_path: Path, words: tuple[str, ...], status: int, shown: str
) -> None:
    failed = sage(tmp_path, *words, XDG_RUNTIME_DIR=str(tmp_path), HOME=str(tmp_path))
    assert failed.returncode == status, failed.stderr
    assert shown in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(tmp_path.rglob("*.service"))


def test_a_system_without_services_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (absence("--user", {"PATH": "/nowhere"}), absence("--system", {"PATH": "/nowhere"})):
        assert found is not None
        assert "no systemctl" in found.problem
    monkeypatch.setattr(sys, "platform", "darwin")
    found = absence("--user", os.environ)
    assert found is not None
    assert "launchd is not supported" in found.problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_system_service_needs_root_and_shows_the_line_for_it() -> None:
    from sage_inference.daemon.service.plan import needs_root

    def question() -> list[str | None]:
        refused = needs_root(["/opt/my sage/bin/sage"], "install")
        return [refused.problem, refused.hint] if refused else []

    problem, hint = as_nobody(question)
    assert "only root" in problem
    assert hint == "sudo '/opt/my sage/bin/sage' inference service install --system"
    assert needs_root([], "install") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_only_root_looks_into_the_folder_of_a_system_service(monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_inference.daemon.service import plan as plans

    found = plan("--system", ["/opt/sage"])

    def question() -> str | None:
        refused = plans.needs_root_to_read(found, "doctor")
        return None if refused is None else f"{refused.problem}; {refused.hint}"

    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        Path(folder).chmod(0o755)
        closed = Path(folder) / "closed"
        monkeypatch.setattr(plans, "SYSTEM_HOME", closed)
        assert as_nobody(question) is None  # none is installed
        closed.mkdir(0o700)
        assert as_nobody(question) == (
            f"only root can read {closed}; sudo /opt/sage inference doctor --system"
        )
        assert question() is None


def test_the_file_of_variables_is_made_once_and_removed_only_without_variables(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "inference.env"
    assert create(path, ["A_KEY", "B_KEY"], {"A_KEY": "a", "OTHER": "x"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(path) == {"A_KEY"}
    assert not create(path, ["C_KEY"], {"C_KEY": "c"})
    assert remove_unused(path)
    path.write_text("# only a comment\n\n#A_KEY=\n; another\n")
    assert names_in(path) == set()
    assert not remove_unused(path)
    assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["A=b c", 'B="d $e \\"f"', "C='g'", "D='open", " E = h ", "F=", "export G=1", "#H=1", "I"]
    path.write_text("\n".join(lines))
    found = {"A": "b c", "B": 'd $e "f', "C": "g", "D": "'open", "E": "h", "F": ""}
    assert values_in(path) == found
    assert names_in(path) == {*"ABCDE"}
    path.unlink()
    with pytest.raises(ServiceError, match="no name that systemd takes"):
        create(path, ["A-KEY"], {"A-KEY": "a"})
    assert not path.exists()


def test_a_unit_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = plan("--user", ["/usr/bin/sage"])
    found.unit_file.mkdir(parents=True)
    with pytest.raises(ServiceError, match="cannot be read: Is a directory"):
        uninstall(found, None)  # type: ignore[arg-type]
