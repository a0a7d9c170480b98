"""The service under a real user manager of systemd: from install to uninstall."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import sage_inference
from sage_inference.cli.schemas import ANSWERS
from sage_inference.daemon.systemd import CONFINED, NAME, Unit, user_unit
from tests.cli.shape import mistakes
from tests.support.gateway import free_port
from tests.support.user_manager import UserManager, missing, user_manager

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no user manager: {missing()}")
PLACE = "my 50% $files"


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    """Its user has a copy of the program, which one test upgrades in place."""
    with user_manager() as started:
        started.program = started.home / "app" / "sage_inference"
        shutil.copytree(Path(sage_inference.__file__).parent, started.program)
        yield started


class Service:
    """The commands of one user, whose files lie in a folder with an odd name. ``variables`` are the shell's."""

    def __init__(self, manager: UserManager, name: str = PLACE) -> None:
        self.manager = manager
        self.home = manager.home / name
        self.port = free_port()
        self.variables = {"SAGE_INFERENCE_HOME": str(self.home)}
        self.unit = manager.home / ".config" / "systemd" / "user" / NAME
        self.variables_file = self.home / "inference.env"
        self.configure({})

    def configure(self, settings: dict[str, Any]) -> None:
        document = {"server": {"port": self.port}, "discover": False} | settings
        self.write(self.home / "config.yaml", json.dumps(document))

    def write(self, path: Path, text: str) -> None:
        """Write as the user."""
        call = 'mkdir -p "$(dirname "$1")"; cat > "$1"'
        assert self.manager.run("sh", "-c", call, "sh", str(path), stdin=text).returncode == 0

    def drop_in(self, *lines: str) -> Path:
        path = Path(f"{self.unit}.d") / "options.conf"
        self.write(path, "\n".join(["[Service]", *lines, ""]))
        return path

    def sage(self, *words: str) -> Any:
        return self.manager.sage(*words, **self.variables)

    def document(self, *words: str) -> Any:
        shown = self.sage("service", *words, "--json")
        document = json.loads(shown.stdout)
        assert mistakes(document, ANSWERS[f"service {words[0]}"]) == [], shown.stderr
        return document

    def pid(self) -> int:
        return int(self.manager.systemctl("show", "-p", "MainPID", "--value", NAME))

    def answers(self, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(f"http://127.0.0.1:{self.port}/v1/models", headers=headers, timeout=20).status_code

    def chats(self, key: str) -> int:
        body = {"model": "org/chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        url, headers = f"http://127.0.0.1:{self.port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
        return httpx.post(url, json=body, headers=headers, timeout=20).status_code

    def units(self) -> str:
        return self.manager.systemctl("list-units", "--all", "--plain", "--no-legend", "sage*")

    def files(self) -> set[str]:
        """The user's files, without the program, and the gateway's state and logs."""
        found = self.manager.home.rglob("*")
        names = {str(each.relative_to(self.manager.home)) for each in found}
        return {name for name in names if not re.search(r"/(state|logs)(/|$)|\.local|\.cache|^app", name)}


@pytest.fixture
def service(manager: UserManager) -> Iterator[Service]:
    found = Service(manager)
    yield found
    manager.systemctl("stop", NAME)
    for path in (found.unit, found.variables_file):
        path.unlink(missing_ok=True)
    shutil.rmtree(f"{found.unit}.d", ignore_errors=True)


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_service_lives_from_install_to_uninstall_and_leaves_nothing(service: Service) -> None:
    """Keys come from a file that is written once. The program is upgraded in place, and its engine outlives all that.

    The engine's keeper is a unit of its own, outside the gateway's user namespace. A drop-in gives more options.
    """
    service.configure({"api_keys": [{"key": "env:SAGE_KEY"}, {"key": "env:OTHER_KEY"}]})
    before = service.files()
    lacking = service.sage("service", "install")
    assert (lacking.returncode, "SAGE_KEY, OTHER_KEY" in lacking.stderr) == (1, True)
    assert not service.unit.exists()
    assert "#SAGE_KEY=\n#OTHER_KEY=\n" in service.variables_file.read_text()

    launch = [
        sys.executable,
        "-P",
        str(service.manager.program / "_launch.py"),
        "sage_inference",
        "inference",
    ]
    start = " ".join([*launch, "start", "--simulate", "--llm-model", "org/chat"])
    drop_in = service.drop_in("RestartSec=100ms", "ExecStart=", f"ExecStart={start}")
    key = "$e%c\"r'e`t\\x"
    service.variables |= {"SAGE_KEY": key, "OTHER_KEY": "other"}
    installed = service.sage("service", "install")
    assert installed.returncode == 0, installed.stderr
    assert key not in installed.stdout + installed.stderr + service.unit.read_text()
    assert service.variables_file.stat().st_mode & 0o777 == 0o600
    assert [service.answers(each) for each in (key, "other", "no")] == [200, 200, 401]
    written = service.variables_file.read_text()
    verified = service.manager.run("systemd-analyze", "verify", "--user", str(service.unit))
    assert (verified.returncode, verified.stderr) == (0, "")
    found = service.document("status")
    assert (found["active"], found["enabled"], found["edited"]) == ("active", True, False)
    assert (found["confined"], found["current"], found["restarts"]) == (True, True, 0)
    assert found["drop_ins"] == [str(drop_in)]
    status = service.manager.run("grep", "-E", "^Cap(Prm|Bnd)", f"/proc/{service.pid()}/status").stdout
    assert set(re.findall(r"\t(\w+)", status)) == {"0" * 16}

    def engine() -> Any:
        engines = json.loads(service.sage("ps", "--json").stdout)["engines"]
        ready = [each for each in engines if (each["model"], each["state"]) == ("org/chat", "ready")]
        return ready[0] if ready else None

    # A second time changes nothing, and takes no key of the shell.
    first, service.variables["SAGE_KEY"] = service.pid(), "changed"
    assert "is up to date" in service.sage("service", "install").stdout
    assert (service.pid(), service.variables_file.read_text()) == (first, written)

    # A crash: systemd starts another one.
    until(lambda: engine() is not None, "the engine is not ready")
    kept = engine()["pid"]
    service.manager.systemctl("kill", "--signal=KILL", NAME)
    until(lambda: service.pid() not in (0, first), "no restart")
    until(lambda: service.manager.systemctl("is-active", NAME) == "active", "not active after a crash")
    assert service.manager.run("systemctl", "--user", "reload", NAME).returncode == 0
    assert service.answers(key) == 200
    until(lambda: engine() is not None, "the engine is not ready after a crash")
    assert engine()["pid"] == kept
    healthy = service.sage("doctor", "-v")
    assert healthy.returncode == 0, healthy.stdout
    assert re.fullmatch(r"all \d+ checks passed", healthy.stdout.splitlines()[-1]), healthy.stdout
    assert str(service.unit) in healthy.stdout

    (service.manager.program / "_version.py").write_text('__version__ = "9.9.9"\n')
    second = service.pid()
    upgraded = service.manager.run(*launch, "service", "install", environ=service.variables)
    assert "runs now" in upgraded.stdout, upgraded.stderr
    assert service.pid() != second
    assert json.loads(service.sage("status", "--json").stdout)["version"] == "9.9.9"
    until(lambda: engine() is not None, "the engine is not ready after an upgrade")
    assert engine()["pid"] == kept
    assert service.chats(key) == 200

    service.manager.systemctl("stop", NAME)
    stopped = service.sage("service", "status")
    assert (stopped.returncode, stopped.stdout.splitlines()[0]) == (3, "inactive")
    assert service.document("uninstall")["kept"] == [str(drop_in), str(service.variables_file)]
    service.variables_file.unlink()
    shutil.rmtree(drop_in.parent)
    assert service.files() - before <= {".config", ".config/systemd", ".config/systemd/user"}
    until(lambda: not service.units(), "a unit is left")
    assert service.document("uninstall")["removed"] is False
    assert service.sage("service", "status").returncode == 3


OWNERS = """
import sys
from sage_inference.engines.search.listeners import listeners
from sage_inference.engines.search.owners import are_hidden, with_owners
here = [each for each in listeners() if str(each.port) in sys.argv[1:]]
print(are_hidden(), [each.uid for each in here], [each.is_trusted for each in with_owners(here)])
"""


def test_the_confined_gateway_knows_the_servers_of_the_system(manager: UserManager) -> None:
    """Root's engines, such as those in Docker, are found and served. In a user namespace their owner is hidden."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
    ):
        ports = [str(each.getsockname()[1]) for each in (one, other)]
        call = [sys.executable, "-c", OWNERS, *ports]
        confined = [f"--property={key}={value}" for key, value in CONFINED.items()]
        shown = manager.run("systemd-run", "--user", "--pipe", "--wait", "--quiet", *confined, "--", *call)
    assert shown.stdout.strip() == "True [65534, 65534] [True, True]", shown.stderr


def test_a_unit_that_others_wrote_is_neither_replaced_nor_removed(service: Service) -> None:
    assert service.sage("service", "install", "--no-start").returncode == 0
    edited = service.unit.read_text() + "# mine\n"
    service.write(service.unit, edited)
    for deed in ("install", "uninstall"):
        refused = service.sage("service", deed)
        assert refused.returncode == 1
        assert "was edited" in refused.stderr
        assert "--force" in refused.stderr
    assert service.unit.read_text() == edited
    assert service.document("status")["edited"] is True
    assert service.sage("service", "install", "--no-start", "--force").returncode == 0
    assert "# mine" not in service.unit.read_text()
    assert service.sage("service", "uninstall").returncode == 0
    service.manager.systemctl("mask", NAME)
    masked = service.sage("service", "install")
    service.manager.systemctl("unmask", NAME)
    assert "is masked" in masked.stderr


def test_a_service_that_cannot_start_is_removed_again(service: Service) -> None:
    before = service.files()
    service.configure({"server": {"port": service.port, "host": "0.0.0.0"}})
    refused = service.sage("service", "install")
    assert (refused.returncode, "no api_keys" in refused.stderr) == (1, True)
    # Variables of its file count, and those of the shell do not.
    service.configure({})
    service.variables["SAGE_INFERENCE_SERVER__HOST"] = "0.0.0.0"
    service.write(service.variables_file, "SAGE_INFERENCE_SERVER__HOST=0.0.0.1\n")
    refused = service.sage("service", "install")
    assert "server.host 0.0.0.1 is reachable" in refused.stderr
    service.variables_file.unlink()
    # It is valid here, and the service finds it broken: its start fails.
    drop_in = service.drop_in("ExecStart=", "ExecStart=/bin/false")
    failed = service.sage("service", "install")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("hint: journalctl --user -u sage-inference")
    shutil.rmtree(drop_in.parent)
    assert service.files() - before <= {".config", ".config/systemd", ".config/systemd/user"}
    assert service.units() == ""


FULL = """
mkdir -p {0}
mount -t tmpfs -o size=16k,mode=777 tmpfs {0}
head -c 64k /dev/zero > {0}/fill 2>/dev/null || true
"""


@pytest.mark.parametrize("what", ["unit", "variables"])
def test_a_full_disk_leaves_nothing_half_written(service: Service, what: str) -> None:
    service.configure({"api_keys": [{"key": "env:SAGE_KEY"}]})
    call = ["service", "install", "--no-start", "--config", str(service.home / "config.yaml")]
    service.variables |= {"SAGE_KEY": "secret", "SAGE_INFERENCE_HOME": str(service.home / "other")}
    path = service.unit if what == "unit" else service.home / "other" / "inference.env"
    service.write(path.with_name("there"), "")
    service.manager.as_root(FULL.format(shlex.quote(str(path.parent))))
    try:
        failed = service.sage(*call)
        assert failed.returncode == 1
        assert f"{path} cannot be written: No space left on device" in failed.stderr
        assert service.manager.run("ls", "-A", str(path.parent)).stdout == "fill\n"
        assert service.sage("service", "status").returncode == 3
    finally:
        service.manager.as_root(f"umount {shlex.quote(str(path.parent))}")
    assert service.sage(*call).returncode == 0
    assert service.sage("service", "uninstall").returncode == 0
    assert service.units() == ""
    shutil.rmtree(service.home / "other")
    path.with_name("there").unlink(missing_ok=True)


def test_the_units_of_the_system_are_for_root(service: Service) -> None:
    for deed in ("install", "uninstall"):
        refused = service.sage("service", deed, "--system", "--json")
        error = json.loads(refused.stdout)["error"]
        assert (refused.returncode, error["message"]) == (1, "only root can change the units of the system")
        assert error["hint"].startswith(f"sudo {sys.executable} ")
        assert error["hint"].endswith(f" inference service {deed} --system")
    assert service.sage("service", "status", "--system").returncode == 3


def test_a_gateway_that_was_started_by_hand_is_left_alone(service: Service) -> None:
    lock = service.home / "state" / "inference.lock"
    service.write(lock, "")
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = service.sage("service", "install")
    assert "a gateway runs already, and it is not the service" in refused.stderr
    assert not service.unit.exists()
    with socket.create_server(("127.0.0.1", service.port)):
        refused = service.sage("service", "install")
    assert f"port {service.port} on 127.0.0.1 is taken by" in refused.stderr
    assert not service.unit.exists()


SCRIPT = """\
#!/bin/sh
printf '%s|' "$0" "$@" "$FOO" "$KEY" > "$HOME/out.new"
mv "$HOME/out.new" "$HOME/out"
"""
ODD = "50% $x;\"q'\\b\t\r\x01\x7f*[?é"


def test_systemd_starts_a_program_in_a_folder_of_any_name(service: Service) -> None:
    folder = service.manager.home / ODD
    program, variables, config = folder / "sage", service.manager.home / "*[?] $%h\\" / "a b", folder / "c"
    service.write(program, SCRIPT)
    program.chmod(0o755)
    service.write(variables, 'KEY="%h $x"\n')
    unit = Unit([str(program)], ["--config", str(config)], {"FOO": ODD}, str(variables))
    service.write(service.unit, user_unit(unit).replace("Type=notify", "Type=oneshot"))
    service.manager.systemctl("daemon-reload")
    started = service.manager.run("systemctl", "--user", "start", NAME)
    assert started.returncode == 0, started.stderr
    expected = [str(program), "inference", "start", "--config", str(config), ODD, "%h $x", ""]
    assert (service.manager.home / "out").read_bytes().decode().split("|") == expected
