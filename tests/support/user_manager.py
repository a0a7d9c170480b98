"""Managers of systemd that belong to one test, in namespaces of their own: a user's, for a user of its own, and a system's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import sage_inference

UID = 4242
_SYSTEMD = "/lib/systemd/systemd"
# The first process of the namespaces. It ends with all others in them.
_PLACES = """
set -e
mount --make-rprivate /
mount --bind "$CGROUP" /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system "/run/user/$ID" /run/closed
mount --bind / /run/closed
echo "$OPENED" | while read -r folder needed; do
    [ -z "$folder" ] && continue
    mountpoint -q "$folder" || mount -t tmpfs -o mode=755 tmpfs "$folder"
    mkdir -p "$needed"
    mount --bind "/run/closed$needed" "$needed"
done
"""
_USERS = (
    _PLACES
    + """
chown "$ID:$ID" "/run/user/$ID"
chmod 700 "/run/user/$ID"
cp /etc/passwd /run/passwd
echo "sage:x:$ID:$ID::$PLACE:/bin/sh" >> /run/passwd
mount --bind /run/passwd /etc/passwd
setpriv --reuid "$ID" --regid "$ID" --clear-groups env -i PATH="$PATH" HOME="$PLACE" LC_ALL=C.UTF-8 \
    XDG_RUNTIME_DIR="/run/user/$ID" SYSTEMD_LOG_TARGET=null "$SYSTEMD" --user >/dev/null 2>&1 </dev/null &
echo ready
read -r _
"""
)
# The system's manager finds only these units, so it starts none of this machine's. It may not change the kernel's settings.
_SYSTEMS = (
    _PLACES
    + """
cp -a /etc /run/etc
rm -rf /run/etc/systemd
mkdir -p /run/etc/systemd/system /run/none
for name in sysinit basic multi-user network-online shutdown; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > "/run/etc/systemd/system/$name.target"
done
for name in service socket; do cp "/lib/systemd/system/systemd-journald.$name" /run/etc/systemd/system; done
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=\\n' > /run/etc/systemd/journald.conf
mount --bind /run/etc /etc
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
echo ready
exec env -i container=test PATH="$PATH" LC_ALL=C.UTF-8 SYSTEMD_LOG_TARGET=null SYSTEMD_UNIT_PATH=/etc/systemd/system \
    SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \
    "$SYSTEMD" --system --unit=basic.target >/dev/null 2>&1 </dev/null
"""
)


def _cgroups() -> Path | None:
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (folder / "cgroup.procs").exists() and (folder / "cgroup.controllers").exists():
            return folder
    return None


def missing() -> str | None:
    """The reason why no user manager can be started here. None if one can."""
    if sys.platform != "linux" or not Path(_SYSTEMD).exists():
        return "systemd is not installed"
    if os.geteuid() != 0:
        return "only root can start a user manager of systemd in namespaces of its own"
    tools = [name for name in ("unshare", "nsenter", "setpriv", "systemctl") if shutil.which(name) is None]
    if tools:
        return f"there is no {tools[0]}"
    folder = _cgroups()
    if folder is None:
        return "there is no version 2 of control groups"
    tried = subprocess.run(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--cgroup",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/run",
        ],
        capture_output=True,
        check=False,
        timeout=20,
    )
    if tried.returncode:
        return "this container allows no mounts"
    with suppress(OSError):
        probe = Path(tempfile.mkdtemp(prefix="sage-", dir=folder))
        probe.rmdir()
        return None
    return "control groups are read-only here"


def _opened() -> str:
    """The folders that other users may not enter, each with a folder in it that holds our program."""
    pairs = []
    for needed in {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sage_inference.__file__).resolve().parent.parent,
    }:
        closed = [each for each in needed.parents if not each.stat().st_mode & 0o001]
        if closed:
            pairs.append(f"{closed[-1]} {needed}")
    return "\n".join(sorted(pairs))


# Runs our commands, each in a fork of a process that has loaded them already.
_COMMANDS = """
import io, json, os, sys, tempfile
sys.path.insert(0, sys.argv[1])
from importlib import import_module
for name in json.loads(sys.argv[2]):
    import_module(name)
from sage_inference.cli.main import main
for line in sys.stdin:
    words, environ = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_RDONLY)
            for number, stream in ((0, null), (1, out.fileno()), (2, err.fileno())):
                os.dup2(stream, number)
            os.environ.update(environ)
            sys.argv[0] = "sage_inference"
            sys.stdout, sys.stderr = (io.TextIOWrapper(open(n, "wb", closefd=False)) for n in (1, 2))
            status = main(words, program="sage")
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [os.pread(each.fileno(), 1 << 20, 0).decode() for each in (out, err)]
    print(json.dumps([status, *texts]), flush=True)
"""
_LOADED = (
    "sage_inference.cli.service.install",
    "sage_inference.cli.service.uninstall",
    "sage_inference.cli.service.status",
    "sage_inference.cli.doctor",
    "sage_inference.doctor.examination",
    "sage_inference.cli.ps",
    "sage_inference.cli.status",
    "sage_inference.daemon.service.install",
    "sage_inference.daemon.service.state",
    "sage_inference.config.load",
)


class UserManager:
    """``home`` is the home directory of the manager's user, and ``program`` the package whose commands it runs."""

    which = "--user"
    _become: tuple[str, ...] = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups")

    def __init__(self, home: Path, init: int) -> None:
        self.home = home
        self.program = Path(sage_inference.__file__).resolve().parent
        self._init = init
        self._commands: subprocess.Popen[str] | None = None

    def close(self) -> None:
        if self._commands is not None:
            self._commands.kill()
            self._commands.communicate()

    def sage(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """``sage inference WORDS``, in a session of the user."""
        if self._commands is None:
            root = str(self.program.parent)
            call = [sys.executable, "-c", _COMMANDS, root, json.dumps(_LOADED)]
            self._commands = subprocess.Popen(
                self._call(call, {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
            )
        assert self._commands.stdin is not None
        assert self._commands.stdout is not None
        self._commands.stdin.write(json.dumps([["inference", *words], environ]) + "\n")
        self._commands.stdin.flush()
        status, out, err = json.loads(self._commands.stdout.readline())
        return subprocess.CompletedProcess(words, status, out, err)

    def run(
        self,
        *command: str,
        timeout: float = 60,
        stdin: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command in a session of the user."""
        return subprocess.run(
            self._call(command, environ or {}),
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout,
            check=False,
            cwd="/",
        )

    def as_root(self, script: str) -> None:
        """Run a script of the shell as root, in the manager's namespaces."""
        call = ["nsenter", "--target", str(self._init), "--mount", "sh", "-ec", script]
        subprocess.run(call, check=True, capture_output=True, timeout=20)

    def _call(self, command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
        return [
            *("nsenter", "--target", str(self._init), "--mount", "--pid", "--cgroup"),
            *self._become,
            *("env", "-i", f"HOME={self.home}", f"XDG_RUNTIME_DIR=/run/user/{UID}", "LC_ALL=C.UTF-8"),
            f"PATH={os.environ['PATH']}",
            *(f"{name}={value}" for name, value in environ.items()),
            *command,
        ]

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl", self.which, *words).stdout.strip()

    def wait(self, done: Callable[[], bool], limit_s: float = 30) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)


class SystemManager(UserManager):
    """Its commands are root's. /etc and /var/lib belong to the test."""

    which = "--system"
    _become = ()


Manager = TypeVar("Manager", bound=UserManager)


def user_manager() -> AbstractContextManager[UserManager]:
    return _manager(_USERS, UserManager)


def system_manager() -> AbstractContextManager[SystemManager]:
    return _manager(_SYSTEMS, SystemManager)


@contextmanager
def _manager(init: str, kind: type[Manager]) -> Iterator[Manager]:
    folder = _cgroups()
    assert folder is not None
    cgroup = Path(tempfile.mkdtemp(prefix="sage-", dir=folder))
    home = Path(tempfile.mkdtemp(prefix="sage-home-"))
    _give(cgroup)
    os.chown(home, UID, UID)
    environ = {
        "CGROUP": str(cgroup),
        "PLACE": str(home),
        "ID": str(UID),
        "SYSTEMD": _SYSTEMD,
        "OPENED": _opened(),
    }
    process = subprocess.Popen(
        [
            *("sh", "-c", 'echo $$ > "$CGROUP/cgroup.procs"; exec "$@"', "sh"),
            *(
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--cgroup",
                "--uts",
                "--ipc",
            ),
            *("sh", "-c", init),
        ],
        env={"PATH": os.environ["PATH"]} | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        manager = kind(home, int(children[0]))
        _until_running(manager)
        try:
            yield manager
        finally:
            manager.close()
    finally:
        process.send_signal(signal.SIGKILL)  # --kill-child ends the rest with it
        process.wait(10)
        _remove(cgroup)
        shutil.rmtree(home, ignore_errors=True)


def _give(cgroup: Path) -> None:
    for path in (cgroup, *cgroup.iterdir()):
        os.chown(path, UID, UID)


def _until_running(manager: UserManager) -> None:
    deadline = time.monotonic() + 20
    while manager.systemctl("is-system-running") not in ("running", "degraded"):
        assert time.monotonic() < deadline, "the user manager did not start"
        time.sleep(0.05)


def _remove(cgroup: Path) -> None:
    """Processes that were killed leave their control group a moment later."""
    deadline = time.monotonic() + 10
    while cgroup.exists() and time.monotonic() < deadline:
        for folder in sorted(cgroup.rglob("*/"), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.05)
