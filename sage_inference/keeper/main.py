"""The keeper's process. It imports all that it needs at once, because an upgrade may replace the package meanwhile.

python -I -S -c '...' ROOT NAME              started by a gateway: leaves it by a second fork
python -I -S -c '...' ROOT NAME DIR SOCKET   started by systemd: fetches the spec from the socket in DIR
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

from sage_inference.keeper import address, files
from sage_inference.keeper.engine import CannotRunError
from sage_inference.keeper.engine_keeper import EngineKeeper
from sage_inference.keeper.guard import EngineGuard
from sage_inference.keeper.linux import become_subreaper, set_name

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from typing import Any

_TIMEOUT_S = 10.0


def main() -> None:
    os.umask(0o077)
    os.chdir("/")
    under_systemd = len(sys.argv) > 3
    launcher = (
        address.connect(sys.argv[3], sys.argv[4], _TIMEOUT_S)
        if under_systemd
        else socket.socket(fileno=os.dup(0))
    )
    launcher.settimeout(_TIMEOUT_S)
    with launcher.makefile("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        os._exit(1)  # the launcher has died
    spec = json.loads(line)
    if not under_systemd:
        if os.fork():
            os._exit(0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os._exit(_guarded(spec, launcher))


def _guarded(spec: dict[str, Any], launcher: socket.socket) -> int:
    set_name("sage-guard")
    try:
        lock = files.take_lock(spec["directory"])
        if lock is None:
            _report(launcher, {"error": "held"})
            return 0
        become_subreaper()
        pipe = os.pipe()
    except OSError as error:
        _report(launcher, {"error": "failed", "message": f"{spec['directory']}: {error.strerror}"})
        return 1
    # A signal that comes before its recipient is ready waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    keeper = os.fork()
    if keeper == 0:
        os._exit(_keep(spec, lock, pipe, launcher))
    launcher.close()
    os.close(pipe[1])
    return EngineGuard(keeper, spec["directory"], pipe[0], spec["grace_s"]).wait()


def _keep(spec: dict[str, Any], lock: int, pipe: tuple[int, int], launcher: socket.socket) -> int:
    set_name("sage-keeper")
    try:
        become_subreaper()
        keeper = EngineKeeper(spec, lock, pipe)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
        pid = keeper.start()
    except CannotRunError as error:
        _withdraw(spec["directory"])
        _report(launcher, {"error": "failed", "message": str(error)})
        return 0
    except OSError as error:
        _withdraw(spec["directory"])
        where = error.filename or spec["directory"]
        _report(launcher, {"error": "failed", "message": f"{where}: {error.strerror}"})
        return 0
    if not _report(launcher, {"ok": True, "engine_pid": pid}):
        keeper.order_stop(0.0)
    launcher.close()
    try:
        keeper.run()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # into keeper.err
        return 1  # the guard ends the engine
    return 0


def _withdraw(directory: str) -> None:
    """No engine was started."""
    for name in (files.ENGINE, files.SOCKET):
        files.remove(os.path.join(directory, name))


def _report(launcher: socket.socket, document: dict[str, Any]) -> bool:
    try:
        launcher.sendall(json.dumps(document).encode() + b"\n")
    except OSError:
        return False
    return True
