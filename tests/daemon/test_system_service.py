"""The service of the whole system under a real system manager: from install to uninstall."""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from sage_inference.config.paths import SYSTEM_HOME
from sage_inference.daemon.systemd import NAME
from sage_inference.interpreter import command
from tests.support.gateway import free_port
from tests.support.tls import Authority
from tests.support.user_manager import SystemManager, missing, system_manager

HIDDEN = any(Path(sys.prefix).is_relative_to(folder) for folder in ("/tmp", "/var/tmp"))  # noqa: S108
pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=f"no system manager: {missing()}"),
    pytest.mark.skipif(HIDDEN, reason="the service has a /tmp of its own, so it cannot run a program there"),
]
OF_SERVICE = {"SAGE_INFERENCE_HOME": str(SYSTEM_HOME)}
UNIT = f"/etc/systemd/system/{NAME}"


@pytest.fixture
def manager() -> Iterator[SystemManager]:
    with system_manager() as started:
        yield started


def done(manager: SystemManager, *words: str, **environ: str) -> str:
    ended = manager.sage(*words, **environ)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


def shell(manager: SystemManager, script: str) -> str:
    return manager.run("sh", "-c", script).stdout.strip()


def main_pid(manager: SystemManager) -> int:
    return int(manager.systemctl("show", "-p", "MainPID", "--value", NAME))


def status_of(manager: SystemManager) -> dict[str, str]:
    """The lines of the gateway's /proc/PID/status."""
    lines = shell(manager, f"cat /proc/{main_pid(manager)}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def health(port: int) -> int:
    return httpx.get(f"http://127.0.0.1:{port}/health", timeout=20).status_code


def files(manager: SystemManager) -> set[str]:
    return set(shell(manager, "find /etc/systemd /etc/sage-inference -type f -o -type l").splitlines())


def free_low_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port below 1024 is free")


def test_a_service_of_the_system_lives_from_install_to_uninstall(
    manager: SystemManager, tmp_path: Path
) -> None:
    port, before = free_port(), files(manager)
    done(manager, "config", "set", "server.port", str(port), **OF_SERVICE)
    call = " ".join(command("sage_inference", "inference", "start", "--simulate"))
    drop_in = f"{UNIT}.d/options.conf"
    lines = ["[Service]", "RestartSec=100ms", "ExecStart=", f"ExecStart={call}"]
    shell(manager, f"mkdir {UNIT}.d; printf '%s\\n' '{chr(10).join(lines)}' > {drop_in}")
    with socket.create_server(("127.0.0.1", port)):
        assert "is taken by" in manager.sage("service", "install", "--system").stderr
    assert "the service runs now" in done(manager, "service", "install", "--system")
    assert health(port) == 200
    found = status_of(manager)
    assert found["Uid"].split()[0] not in ("0", "65534")  # a user that systemd made up
    assert (found["CapBnd"], found["NoNewPrivs"]) == ("0" * 16, "1")
    assert manager.run("systemd-analyze", "verify", UNIT).stderr == ""

    # Its user can read what root writes into its folder.
    shell(manager, f"rm {SYSTEM_HOME}/config.yaml {SYSTEM_HOME}/.config.yaml.lock")
    done(manager, "config", "set", "server.port", str(port), **OF_SERVICE)
    owners = shell(
        manager, f"stat -L -c %u {SYSTEM_HOME} {SYSTEM_HOME}/config.yaml {SYSTEM_HOME}/.config.yaml.lock"
    )
    assert len(set(owners.split())) == 1
    assert manager.run("systemctl", "reload", NAME).returncode == 0

    first = main_pid(manager)
    manager.systemctl("kill", "--signal=KILL", NAME)
    manager.wait(lambda: main_pid(manager) not in (0, first))
    manager.wait(lambda: manager.systemctl("is-active", NAME) == "active")

    healthy = done(manager, "doctor", "--system", "-v")
    assert re.fullmatch(r"all \d+ checks passed", healthy.splitlines()[-1]), healthy
    assert UNIT in healthy
    assert done(manager, "doctor", "-v", **OF_SERVICE).splitlines()[-1] == healthy.splitlines()[-1]
    own = tmp_path / "config.yaml"
    own.write_text(json.dumps({"server": {"port": port}}))
    assert f"127.0.0.1:{port} is the system service's" in done(
        manager, "doctor", "-v", SAGE_INFERENCE_HOME=str(tmp_path)
    )
    for deed in ("restart", "start"):
        refused = manager.sage(deed, **OF_SERVICE)
        assert (refused.returncode, f"systemctl {deed} sage-inference" in refused.stderr) == (1, True), (
            refused
        )
        manager.systemctl("stop", NAME)

    low = free_low_port()
    done(manager, "config", "set", "server.port", str(low), **OF_SERVICE)
    done(manager, "service", "install", "--system", "--as", "nobody")
    assert health(low) == 200
    found = status_of(manager)
    assert (found["Uid"].split()[0], found["CapEff"]) == ("65534", f"{1 << 10:016x}")  # CAP_NET_BIND_SERVICE

    document: Any = json.loads(done(manager, "service", "uninstall", "--system", "--json"))
    assert (document["removed"], document["kept"]) == (True, [drop_in])
    assert manager.systemctl("list-units", "--all", "--plain", "--no-legend", "sage*") == ""
    assert files(manager) - before == {drop_in}
    kept = shell(manager, f"ls {SYSTEM_HOME}").split()
    assert kept == ["config.yaml", "logs", "state"]


def test_an_install_that_failed_is_filled_in_or_taken_back(manager: SystemManager) -> None:
    shell(
        manager, f"mkdir {SYSTEM_HOME}; echo 'api_keys: [{{key: env:SAGE_KEY}}]' > {SYSTEM_HOME}/config.yaml"
    )
    variables = "/etc/sage-inference/inference.env"
    refused = manager.sage("service", "install", "--system")
    assert (refused.returncode, f"NAME=value into {variables}" in refused.stderr) == (1, True)
    assert "#SAGE_KEY=" in shell(manager, f"cat {variables}")
    assert "not installed" in done(manager, "service", "uninstall", "--system")
    assert shell(manager, "ls /etc/sage-inference") == ""
    manager.sage("service", "install", "--system")
    done(manager, "service", "install", "--system", "--no-start", SAGE_KEY="secret")
    assert 'SAGE_KEY="secret"' in shell(manager, f"cat {variables}")
    assert manager.sage("service", "status", "--system").returncode == 3
    assert shell(manager, f"stat -c %a {variables}") == "600"


def test_files_that_the_unit_hides_are_refused_before_the_service_starts(manager: SystemManager) -> None:
    """``DynamicUser`` hides /tmp, and a drop-in may hide other places."""
    with tempfile.TemporaryDirectory(prefix="sage-") as folder:
        hidden = Path(folder)
        hidden.chmod(0o755)  # pytest's folders are closed to others
        program, config, key = hidden / "sage", hidden / "own.yaml", hidden / "key"
        code = "import sys; from sage_inference._entry import main; sys.exit(main())"
        program.write_text(f"#!{sys.executable}\n{code}\n")
        program.chmod(0o755)
        key.write_text("opensesame")
        config.write_text("{}")

        def refused(what: str, *words: str, by: Sequence[str] = ()) -> str:
            call = [*by, "inference", "service", "install", "--system", *words]
            ended = manager.run(*call) if by else manager.sage(*call[1:])
            assert ended.returncode == 1, ended.stdout
            [error, hint] = ended.stderr.splitlines()[-2:]
            assert error.startswith(f"error: the service cannot reach {what}, ")
            return f"{error} {hint}"

        assert "/opt" in refused("its program", by=[str(program)])
        assert "--as" in refused("its configuration", "--config", str(config))
        done(manager, "config", "set", "admin_key", f"file:{key}", **OF_SERVICE)
        found = refused("admin_key")
        assert f"{key}, because PrivateTmp hides /tmp from it" in found
        assert "opensesame" not in found
        assert files(manager) & {UNIT, f"{UNIT}.d/options.conf"} == set()

        done(manager, "config", "set", "server.port", str(free_port()), **OF_SERVICE)
        shell(
            manager, f"mkdir {UNIT}.d; printf '[Service]\\nBindReadOnlyPaths={hidden}\\n' > {UNIT}.d/a.conf"
        )
        done(manager, "service", "install", "--system")
        written = shell(manager, f"cat {UNIT}")
        shell(
            manager,
            f"printf '[Service]\\nInaccessiblePaths={hidden}\\n' > {UNIT}.d/b.conf; rm {UNIT}.d/a.conf",
        )
        done(manager, "config", "set", "timeouts.drain_s", "7", **OF_SERVICE)
        refused("admin_key")
        assert shell(manager, f"cat {UNIT}") == written
        examined = manager.sage("doctor", "--system")
        assert (examined.returncode, "the service cannot reach admin_key" in examined.stdout) == (1, True)


def test_the_reason_why_the_service_does_not_start_comes_from_the_journal(
    manager: SystemManager, tmp_path: Path
) -> None:
    """Root can read the key, and the user of the service cannot."""
    assert manager.run("systemctl", "start", "systemd-journald").returncode == 0
    pair, port = Authority(tmp_path, "root").issue(), free_port()

    def configure(cert: str | Path, key: str | Path) -> None:
        for name, value in (("port", port), ("tls_cert", cert), ("tls_key", key)):
            done(manager, "config", "set", f"server.{name}", str(value), **OF_SERVICE)

    shell(manager, f"cp {pair.chain} /etc/lab.pem; cp {pair.key} /etc/lab.key; chmod 600 /etc/lab.key")
    configure("/etc/lab.pem", "/etc/lab.key")
    failed = manager.sage("service", "install", "--system")
    error, hint = failed.stderr.splitlines()[-2:]
    problem = 'server.tls_key: file "/etc/lab.key" is not readable: permission denied'
    assert error == f"error: the service did not start: {problem}"
    assert hint.startswith("hint: give the gateway's user the right to read it")
    assert manager.sage("service", "status", "--system").returncode == 3

    here = f"{SYSTEM_HOME}/gateway"
    shell(manager, f"cp /etc/lab.pem {here}.pem; cp /etc/lab.key {here}.key")
    shell(manager, f"chown --reference={SYSTEM_HOME} {here}.pem {here}.key")
    configure(f"{here}.pem", f"{here}.key")
    done(manager, "service", "install", "--system")
    trusted = ssl.create_default_context(cafile=pair.chain)
    trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    assert httpx.get(f"https://127.0.0.1:{port}/health/live", verify=trusted, timeout=20).status_code == 200
