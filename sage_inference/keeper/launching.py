"""Starts keepers: as a transient systemd service where the gateway is one, otherwise by a double fork."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import IO, Any, Literal

from sage_inference.keeper import address, files, transient_unit
from sage_inference.keeper.errors import AlreadyKeptError, KeeperError
from sage_inference.keeper.spec import KeeperSpec

Supervisor = Literal["auto", "systemd", "plain"]

START_S = 20.0
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from sage_inference.keeper.main import main; main()"
# The folder of our package comes last on the path, so that no file beside it hides a module of Python.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(spec: KeeperSpec, supervisor: Supervisor) -> int:
    """Start a keeper and its engine. Returns the engine's pid when it was executed. Raises ``KeeperError``."""
    if sys.platform != "linux":
        raise KeeperError(
            "engines can be started on Linux only", "start it yourself, and name it with --llm-backend"
        )
    if not spec.argv:
        raise KeeperError(f"engine {spec.name} has no command")
    _make(spec.directory)
    which = None if supervisor == "plain" else transient_unit.manager(os.environ)
    if supervisor == "systemd" and which is None:
        raise KeeperError(
            "managed.supervisor is systemd, and this gateway is no systemd service with a manager for its user",
            "managed.supervisor: auto, or loginctl enable-linger",
        )
    if which is None:
        return _plain(spec)
    try:
        return _by_systemd(spec, which)
    except AlreadyKeptError:
        raise
    except KeeperError:
        if supervisor == "systemd":
            raise
        return _plain(spec)


def _make(directory: str) -> None:
    """Make the directory, which only its owner may enter. The umask is the whole process's, and left alone."""
    try:
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        if os.stat(directory).st_mode & 0o077:
            os.chmod(directory, 0o700)
    except OSError as error:
        raise KeeperError(f"directory {directory} cannot be made: {error.strerror}") from None


def _command(spec: KeeperSpec) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, spec.name]


def _plain(spec: KeeperSpec) -> int:
    ours, theirs = socket.socketpair()
    with ours:
        # With `systemd-run` the journal has what an interpreter prints that cannot start.
        with theirs, _error_file(spec.directory) as errors:
            try:
                process = subprocess.Popen(
                    _command(spec),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                    cwd="/",
                    env={key: os.environ[key] for key in transient_unit.PASSED_ON if key in os.environ},
                )
            except OSError as error:
                raise KeeperError(f"{sys.executable} cannot be run: {error.strerror}") from None
        try:
            return _exchange(ours, spec)
        finally:
            ours.close()
            # It forks and ends as soon as it has the spec, or notices that there will be none.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(START_S)


def _error_file(directory: str) -> IO[bytes]:
    try:
        descriptor = os.open(
            os.path.join(directory, files.ERRORS), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise KeeperError(f"{error.filename} cannot be written: {error.strerror}") from None
    return os.fdopen(descriptor, "r+b")


def _by_systemd(spec: KeeperSpec, which: str) -> int:
    name = f"launch-{os.getpid()}-{os.urandom(4).hex()}.sock"
    try:
        listening, where = address.listen(spec.directory, name)
    except OSError as error:
        raise KeeperError(f"{spec.directory}: {error.strerror}") from None
    try:
        with listening:
            call = transient_unit.arguments(
                [*_command(spec), spec.directory, where],
                which=which,
                name=spec.name,
                grace_s=spec.grace_s,
                environ=os.environ,
            )
            transient_unit.run(call, os.environ)
            listening.settimeout(START_S)
            try:
                connection, _ = listening.accept()
            except OSError:
                raise KeeperError(
                    "the keeper did not start under systemd", "journalctl --user -n 20"
                ) from None
            with connection:
                if address.peer(connection) is None:
                    raise KeeperError("a process of another user answered instead of the keeper")
                return _exchange(connection, spec)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(spec.directory, name))


def _exchange(sock: socket.socket, spec: KeeperSpec) -> int:
    """Send the spec, and wait for the report."""
    sock.settimeout(START_S)
    try:
        sock.sendall(json.dumps(spec.as_document()).encode() + b"\n")
        with sock.makefile("rb") as file:
            line = file.readline()
        report: dict[str, Any] = json.loads(line)
    except (OSError, ValueError):
        message = "the keeper ended, or did not report, before the engine was started"
        raise KeeperError(message + files.last_words(spec.directory)) from None
    if report.get("ok"):
        return int(report["engine_pid"])
    if report.get("error") == "held":
        raise AlreadyKeptError(f"engine {spec.name} runs already: its lock in {spec.directory} is held")
    raise KeeperError(str(report.get("message")))
