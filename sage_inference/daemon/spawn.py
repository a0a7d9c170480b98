"""Starts the gateway in the background, and returns when it answers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags, Settings
from sage_inference.daemon import lock
from sage_inference.daemon.directories import HOME_HINT, ensure
from sage_inference.daemon.errors import (
    LOG_HINT,
    UNEXPECTED,
    DaemonError,
    StartFailed,
    StartTimeout,
)
from sage_inference.daemon.launch_spec import LaunchSpec
from sage_inference.daemon.predecessor import Predecessor
from sage_inference.daemon.readiness import await_report, reported_error
from sage_inference.interpreter import command, environment

_END_S = 5.0
_LARGEST_OUTPUT = 1 << 20


@dataclass(frozen=True, slots=True)
class Started:
    pid: int
    status: dict[str, Any]
    log_file: Path


def start_background(
    paths: Paths,
    flags: Flags,
    *,
    config_required: bool = False,
    timeout_s: float = 60.0,
    on_wait: Callable[[float], None] | None = None,
    on_settings: Callable[[Settings], None] | None = None,
    relieves: Predecessor | None = None,
) -> Started:
    """Start a gateway, and wait until it answers. It takes the place of the running one that it ``relieves``.

    ``on_settings`` gets the settings before anything is started.

    Raises ``ConfigError`` before anything is started, ``AlreadyRunning``, ``StartFailed``,
    ``StartTimeout``, or the ``DaemonError`` that the background process reported. On any of them,
    and on Ctrl-C, nothing is left running.
    """
    _prepare(paths, flags, config_required, on_settings, relieves)
    with _output_file(paths) as output:
        begin = output.seek(0, os.SEEK_END)
        process, pipe = _spawn(output)
        try:
            _give(process, LaunchSpec(paths, flags, config_required, relieves))
            report = await_report(pipe, timeout_s, on_wait)
            if report is not None and "commit" in report:
                report = _commit(process, pipe, timeout_s)
            status = _accepted(report, process, lambda: _last_line(output, begin))
        except TimeoutError:
            raise StartTimeout(timeout_s) from None
        else:
            _leave(process)
        finally:
            os.close(pipe)
            _end(process)
    return Started(process.pid, status, paths.log_file)


def launch(
    paths: Paths,
    flags: Flags,
    *,
    config_required: bool = False,
    on_settings: Callable[[Settings], None] | None = None,
) -> int:
    """Start a gateway, and return its pid at once. A fault after that is in its log only.

    Raises ``ConfigError`` and ``AlreadyRunning`` before anything is started.
    """
    _prepare(paths, flags, config_required, on_settings, None)
    with _output_file(paths) as output:
        process, pipe = _spawn(output)
        os.close(pipe)
        _give(process, LaunchSpec(paths, flags, config_required))
        _leave(process)
    return process.pid


def _prepare(
    paths: Paths,
    flags: Flags,
    config_required: bool,
    on_settings: Callable[[Settings], None] | None,
    relieves: Predecessor | None,
) -> None:
    if relieves is None:
        lock.refuse_second(paths.lock_file)
    # Imported late, so that a gateway that runs already is reported at once.
    from sage_inference.daemon.run import load_settings

    settings = load_settings(paths, flags, config_required=config_required)
    if on_settings is not None:
        on_settings(settings)
    ensure(paths)


def _leave(process: subprocess.Popen[bytes]) -> None:
    """The process runs on without us, so ``Popen`` must not warn that nobody waited for it."""
    process.returncode = 0


def _spawn(output: IO[bytes]) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the pipe for its report."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            command("sage_inference.daemon", "--ready-fd", str(writing)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,
            env=environment(),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, reading


def _give(process: subprocess.Popen[bytes], spec: LaunchSpec) -> None:
    """Write the launch spec to the process's standard input, because all users can read command lines with an API key."""
    assert process.stdin is not None
    # The process may be dead already. Its report, or the lack of one, explains more than a broken pipe.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(spec.to_json())
        process.stdin.flush()
    # A process that relieves another waits for a second line. The pipe's end means no.
    if spec.relieves is None:
        _close(process)


def _commit(process: subprocess.Popen[bytes], pipe: int, timeout_s: float) -> dict[str, Any] | None:
    """Let the process take over. From here until it reports, giving up could leave no gateway at all."""
    assert process.stdin is not None
    with _uninterrupted():
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"go\n")
            process.stdin.flush()
        _close(process)
        return await_report(pipe, timeout_s)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # another thread than the main one gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _accepted(
    report: dict[str, Any] | None, process: subprocess.Popen[bytes], last_words: Callable[[], str]
) -> dict[str, Any]:
    """The status document in a report of readiness. Raises for any other report."""
    if report is not None and "ready" in report:
        status: dict[str, Any] = report["ready"]
        return status
    code = _reap(process)
    if report is None:
        raise StartFailed(code, last_words(), LOG_HINT)
    if report["code"] == UNEXPECTED:
        raise StartFailed(code, report["error"], LOG_HINT)
    raise reported_error(report)


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that did not become ready, unless its ``returncode`` is set."""
    _close(process)
    if process.poll() is not None:
        return
    process.terminate()
    if _reap(process) is None:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _output_file(paths: Paths) -> Iterator[IO[bytes]]:
    """The file for output that is not logged: of a crashing interpreter, or before logging is set up."""
    path = paths.log_file.with_suffix(".err")
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST_OUTPUT:
            path.replace(path.with_suffix(".err.1"))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DaemonError(f"{path} cannot be opened: {error.strerror}", HOME_HINT) from None
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        yield file


def _last_line(output: IO[bytes], begin: int) -> str:
    output.seek(begin)
    lines = (output.read(_LARGEST_OUTPUT) or b"").decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it gave no reason"
