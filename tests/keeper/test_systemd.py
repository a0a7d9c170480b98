"""The transient unit of a keeper, and the question whether systemd restarts the gateway's own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from sage_inference.keeper import own_unit, transient_unit
from sage_inference.keeper.client import KeeperError, launch
from tests.keeper.conftest import Engines, wait_until
from tests.support.user_manager import missing, user_manager

TOOL = """\
#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
*show*) {show} ;;
*list-jobs*) {jobs} ;;
esac
"""


def call(name: str = "qwen", **changes: object) -> list[str]:
    values: dict[str, object] = {"which": "--user", "name": name, "grace_s": 15.0, "environ": {"LANG": "C"}}
    return transient_unit.arguments(["/usr/bin/python3", "-c", "print('$HOME')", name], **values | changes)  # type: ignore[arg-type]


def test_the_unit_outlives_the_gateway_and_ends_in_order() -> None:
    words = call()
    assert words[:4] == ["systemd-run", "--user", "--quiet", "--collect"]
    assert {"--property=Type=exec", "--property=KillMode=mixed", "--property=TimeoutStopSec=30"} <= {*words}
    assert "--setenv=LANG=C" in words
    # systemd expands $ in a command line.
    assert words[words.index("--") + 1 :] == ["/usr/bin/python3", "-c", "print('$$HOME')", "qwen"]
    assert not {"--scope", "--pty", "--pipe", "--wait"} & {*words}


@pytest.mark.parametrize("name", ["qwen", "Qwen/Qwen2.5 7B", "ä\nö", "%i$x", "x" * 300, "../..", "@"])
def test_a_units_name_is_valid_and_its_own(name: str) -> None:
    found = transient_unit.unit_name(name)
    assert len(found) < 256
    assert not set(found) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")
    assert found.endswith(".service")
    assert transient_unit.unit_name(name) != found
    assert all("\n" not in word for word in call(name)[: call(name).index("--")])


def with_tool(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / "bin").mkdir(exist_ok=True)
    tool = folder / "bin" / name
    tool.write_text(text)
    tool.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}


def test_the_manager_is_the_users_where_there_is_one(tmp_path: Path) -> None:
    environ = with_tool(tmp_path, "systemd-run", "#!/bin/sh\nexit 1\n") | {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    invoked = environ | {"INVOCATION_ID": "1"}
    assert transient_unit.manager(environ) is None  # started by a person: nothing kills its children
    assert transient_unit.manager(invoked) == "--user"
    assert transient_unit.manager(invoked | {"PATH": "/nowhere"}) is None
    if not Path("/run/systemd/system").exists():
        assert transient_unit.manager(invoked | {"XDG_RUNTIME_DIR": str(tmp_path / "bin")}) is None


def test_systemd_that_fails_is_an_error_or_left_aside(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(KeeperError, match=r"managed\.supervisor is systemd"):
        launch(engines.spec("/bin/true"), "systemd")
    environ = with_tool(tmp_path, "systemd-run", "#!/bin/sh\necho no bus >&2; exit 1\n")
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    for name, value in (environ | {"INVOCATION_ID": "1", "XDG_RUNTIME_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KeeperError, match="failed with status 1: no bus"):
        launch(engines.spec("/bin/true"), "systemd")
    with launch(engines.spec("/bin/sleep", "60"), "auto") as link:
        link.kill()
        assert link.wait_exit(10) is not None
    assert not list(engines.directory.glob("launch-*"))


def test_a_unit_is_started_with_the_spec_in_its_hands(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for systemd-run that starts what it is given, as a manager does: detached, with another parent."""
    script = (
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\nsetsid "$@" </dev/null >/dev/null 2>&1 &\n'
    )
    environ = with_tool(tmp_path, "systemd-run", script)
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    for name, value in (environ | {"INVOCATION_ID": "1", "XDG_RUNTIME_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    with launch(engines.spec("/bin/sleep", "60", env={"HF_TOKEN": "opensesame"}), "systemd") as link:
        guard = int(Path(f"/proc/{link.keeper_pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert b"opensesame" not in Path(f"/proc/{guard}/cmdline").read_bytes()
        assert not list(engines.directory.glob("launch-*"))
        os.kill(guard, signal.SIGTERM)
        record = link.wait_exit(10)
        assert record is not None
        assert record.ordered
    # The unit's arguments follow the name, so the mark does not find these processes.
    wait_until(lambda: not Path(f"/proc/{guard}").exists())


@pytest.mark.parametrize(
    ("cgroups", "is_user", "found"),
    [
        ("0::/system.slice/sage.service\n", False, ("sage.service", "--system")),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sage-inference.service\n",
            False,
            ("sage-inference.service", "--user"),
        ),
        ("0::/app.slice/a.service\n", True, ("a.service", "--user")),
        ("9:name=systemd:/system.slice/a.service\n1:cpu:/\n", False, ("a.service", "--system")),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", False, None),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", False, None),
        ("0::/\n", False, None),
        ("", False, None),
        ("nonsense", False, None),
        ("0::/system.slice/a.service/child\n", False, ("a.service", "--system")),
    ],
)
def test_the_unit_is_read_from_the_cgroup(cgroups: str, is_user: bool, found: tuple[str, str] | None) -> None:
    assert own_unit.unit_of(cgroups, is_user=is_user) == found


@pytest.mark.parametrize(
    ("show", "jobs", "restarts"),
    [
        ("echo MainPID=$PPID; echo Job=57", "echo '57 sage.service restart running'", True),
        (
            "echo Job=57; echo MainPID=$PPID",
            "echo '9 x.service stop waiting'; echo '57 sage.service restart running'",
            True,
        ),
        ("echo MainPID=$PPID; echo Job=57", "echo '57 sage.service try-restart running'", True),
        ("echo MainPID=$PPID; echo Job=57", "echo '57 sage.service stop running'", False),
        ("echo MainPID=$PPID; echo Job=57", "echo '58 other.service restart running'", False),
        ("echo MainPID=$PPID; echo Job=0", "echo '57 sage.service restart running'", False),
        ("echo MainPID=$PPID", "true", False),
        ("echo MainPID=1; echo Job=57", "echo '57 sage.service restart running'", False),
        ("echo MainPID=0; echo Job=57", "echo '57 sage.service restart running'", False),
        ("echo MainPID=$PPID; echo Job=57", "echo '57 sage.service'", False),
        ("exit 1", "exit 1", False),
        ("sleep 5", "true", False),
    ],
)
def test_a_restart_is_told_from_a_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, show: str, jobs: str, restarts: bool
) -> None:
    monkeypatch.setattr(own_unit, "_cgroups", lambda: "0::/system.slice/sage.service\n")
    monkeypatch.setattr(own_unit, "_TIMEOUT_S", 0.3 if show == "sleep 5" else 5.0)
    environ = with_tool(tmp_path, "systemctl", TOOL.format(folder=tmp_path, show=show, jobs=jobs))
    monkeypatch.setenv("PATH", environ["PATH"])
    assert own_unit.is_restarting(environ | {"INVOCATION_ID": "1"}) is restarts
    assert own_unit.is_restarting(environ) is False


def test_without_systemctl_nothing_is_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_unit, "_cgroups", lambda: "0::/system.slice/sage.service\n")
    monkeypatch.setenv("PATH", "/nowhere")
    assert own_unit.is_restarting({"INVOCATION_ID": "1", "PATH": "/nowhere"}) is False


GATEWAY = """
import os, signal, sys, time
from pathlib import Path
from sage_inference.keeper.client import adopt, launch
from sage_inference.keeper.own_unit import is_restarting
from sage_inference.keeper.spec import KeeperSpec
folder = Path(sys.argv[1])
spec = KeeperSpec(name=folder.name, directory=str(folder), argv=["/bin/sleep", "60"], env={}, grace_s=3)
link = adopt(folder) or launch(spec, "auto")
def end(*_):
    restarts = is_restarting()
    note(f"ends {restarts}")
    if not restarts:
        link.stop()
        link.wait_exit(10)
    os._exit(0)
def note(text):
    with (folder.parent / "notes").open("a") as file: file.write(text + "\\n")
signal.signal(signal.SIGTERM, end)
note(f"serves {link.first.engine_pid}")
while True: time.sleep(60)
"""


@pytest.mark.skipif(missing() is not None, reason=f"no user manager of systemd: {missing()}")
def test_a_restart_of_the_gateways_unit_keeps_the_engine() -> None:
    unit = "sage-test.service"
    with user_manager() as manager:
        notes = manager.home / "notes"

        def done(*words: str) -> None:
            ended = manager.run(*words)
            assert ended.returncode == 0, ended.stderr

        def noted(count: int) -> list[str]:
            wait_until(lambda: notes.exists() and len(notes.read_text().splitlines()) >= count)
            return notes.read_text().splitlines()

        done("mkdir", str(manager.home / "qwen"))
        done(
            *("systemd-run", "--user", "--quiet", f"--unit={unit}", "--property=KillMode=mixed"),
            f"--working-directory={Path(__file__).parents[2]}",
            *(sys.executable, "-c", GATEWAY, str(manager.home / "qwen")),
        )
        (serves,) = noted(1)
        done("systemctl", "--user", "restart", unit)
        assert noted(3) == [serves, "ends True", serves]
        done("systemctl", "--user", "stop", unit)
        assert noted(4)[3] == "ends False"
