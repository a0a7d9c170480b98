"""The keeper's loop: one engine from its start to the end of its last process.

RUNNING ──stop──▶ STOPPING ──grace over, or kill──▶ KILLING ──no child left──▶ over
   └──the first process ends──▶ its children get a moment ───────▲
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from sage_inference.keeper import address, engine, files
from sage_inference.keeper.children import Ending, reap
from sage_inference.keeper.control_socket import ControlSocket
from sage_inference.keeper.linux import boot_id, start_ticks, tree
from sage_inference.keeper.masking import Masker, secret_values
from sage_inference.keeper.oom import OomCounter
from sage_inference.keeper.output import IDLE_S, Output
from sage_inference.log_files.writer import LogWriter

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from typing import Any

_TICK_S = 1.0
_REST_S = 5.0  # at most, after the first process has ended, until its children are killed
_ROUND_S = 0.02  # between two rounds of killing
_SPARED_S = 5.0  # for processes that tidy up after the others, which end by themselves when those have ended
_NEVER = float("inf")


class EngineKeeper:
    """Owns one engine. ``pipe`` is the engine's output, and ``lock`` the descriptor that keeps other keepers out."""

    def __init__(self, spec: dict[str, Any], lock: int, pipe: tuple[int, int]) -> None:
        self._spec = spec
        self._directory: str = spec["directory"]
        self._lock = lock
        self._writing = pipe[1]
        masker = Masker([*spec["secrets"], *secret_values(spec["env"])])
        self._mask = masker
        log = LogWriter(os.path.join(self._directory, files.LOG), spec["log_bytes"], spec["log_backups"])
        self._output = Output(pipe[0], log, masker)
        self._output_over = False
        self._started_at = time.time()
        now = time.monotonic()
        self._orphan_at: float = now + spec["orphan_timeout_s"]
        self._tick_at = now + _TICK_S
        self._oom = OomCounter(now)
        self._pid: int | None = None
        self._exit: dict[str, Any] | None = None
        self._stopping = False
        self._stop_pid: int | None = None  # of the stop command, while it runs
        self._stop_ran = False
        self._kill_from: float = _NEVER
        self._ending: Ending | None = None
        self._over = False
        self._poll = select.poll()
        sock, self._address = address.listen(self._directory)
        self._control = ControlSocket(sock, self._poll, self._answer)
        self._woken = _wake_by_signals()
        self._poll.register(self._woken, select.POLLIN)
        self._poll.register(self._output.pipe, select.POLLIN)
        self._document: dict[str, Any] = {}

    def start(self) -> int:
        """Start the engine. Returns its pid. Raises ``CannotRunError``, ``OSError``."""
        spec = self._spec
        files.remove(os.path.join(self._directory, files.EXIT))
        self._output.note(f"{spec['name']} is started by: {' '.join(spec['argv'])}")
        self._document = {
            "schema": files.SCHEMA,
            "name": spec["name"],
            "argv": [self._mask.text(word) for word in spec["argv"]],
            "env": sorted(spec["env"]),
            "spec_hash": spec["spec_hash"],
            "about": spec["about"],
            "socket": self._address,
            "keeper_pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "boot_id": boot_id(),
            "started_at": self._started_at,
            "engine_pid": None,
            "grace_s": spec["grace_s"],
            "log_mark": self._output.mark(),
        }
        files.write(self._directory, files.ENGINE, self._document)
        cwd = spec["cwd"] or self._directory
        self._pid = engine.execute(spec["argv"], spec["env"], cwd, self._writing, self._lock)
        os.close(self._writing)
        self._document["engine_pid"] = self._pid
        files.write(self._directory, files.ENGINE, self._document)
        return self._pid

    def run(self) -> None:
        """Serve until no process of the engine is left, and its end is recorded."""
        while not self._over:
            for descriptor, _ in self._poll.poll(1000 * self._wait_s()):
                if descriptor == self._output.pipe:
                    self._read_output()
                elif descriptor == self._woken.fileno():
                    self._take_signals()
                else:
                    self._control.handle(descriptor)
            self._on_time(time.monotonic())

    def order_stop(self, grace_s: float) -> None:
        """Stop the engine. A second order can only shorten the grace."""
        now = time.monotonic()
        self._kill_from = min(self._kill_from, now + max(0.0, grace_s))
        if self._stopping:
            return
        self._stopping = True
        if self._exit is None and grace_s > 0:
            self._ask_to_end()

    # The rest is the loop's own.

    def _ask_to_end(self) -> None:
        """Run the stop command, or send SIGTERM to the first process, once: a second one would cut its cleaning up."""
        if self._spec["stop_command"]:
            self._run_stop_command()
        elif self._pid is not None:
            os.kill(self._pid, signal.SIGTERM)  # our own child, not waited for

    def _run_stop_command(self) -> None:
        if self._stop_ran:
            return
        self._stop_ran = True
        cwd = self._spec["cwd"] or "/"
        try:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._stop_pid = engine.execute(self._spec["stop_command"], self._spec["env"], cwd, null)
            finally:
                os.close(null)
        except (engine.CannotRunError, OSError) as error:
            self._output.note(f"the stop command failed: {error}")

    def _wait_s(self) -> float:
        now = time.monotonic()
        until: float = min(self._tick_at, self._kill_from, self._orphan_at)
        if self._ending is not None:
            until = min(self._tick_at, now + _ROUND_S)
        if self._output.unfinished_since is not None:
            until = min(until, self._output.unfinished_since + IDLE_S)
        return max(0.0, until - now) + 0.001

    def _read_output(self) -> None:
        if not self._output.read():
            self._output_over = True
            self._poll.unregister(self._output.pipe)

    def _take_signals(self) -> None:
        try:
            numbers = self._woken.recv(4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers:
            self.order_stop(self._spec["grace_s"])
        self._reap()

    def _reap(self) -> None:
        ended, others = reap()
        for pid, status in ended.items():
            if self._ending is not None:
                self._ending.forget(pid)
            if pid == self._pid:
                self._record(os.waitstatus_to_exitcode(status))
            elif pid == self._stop_pid:
                self._stop_pid = None
        # The stop command may have been started just now.
        if not others and self._stop_pid is None and not self._over:
            self._finish()

    def _record(self, code: int) -> None:
        """The first process has ended. Its children get a moment, which they use if they were asked to end."""
        now = time.monotonic()
        self._pid = None
        self._exit = {
            "status": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "at": time.time(),
            "ordered": self._stopping,
            "oom_killed": not self._stopping and self._oom.rose(now),
        }
        self._write(files.EXIT, self._exit)
        self._control.announce({"event": "exit", "exit": self._exit})
        self._kill_from = min(self._kill_from, now + min(_REST_S, self._spec["grace_s"]))
        if self._spec["stop_command"] and not self._stopping:
            # The first process may have been a client only, such as `docker run`: what it started runs elsewhere.
            self._kill_from = now + self._spec["grace_s"]
            self._run_stop_command()

    def _on_time(self, now: float) -> None:
        since = self._output.unfinished_since
        if since is not None and now >= since + IDLE_S:
            self._output.flush()
        if now >= self._orphan_at:
            self._orphan_at = _NEVER
            self._output.note(f"no gateway for {self._spec['orphan_timeout_s']:g} s: the engine is stopped")
            self.order_stop(self._spec["grace_s"])
        if now >= self._tick_at:
            self._tick_at = now + _TICK_S
            self._tick(now)
        if self._over or now < self._kill_from:
            return
        if self._ending is None:
            self._stopping = True
            self._ending = Ending()
        self._ending.round(spare_trackers=now < self._kill_from + _SPARED_S)
        self._reap()

    def _tick(self, now: float) -> None:
        self._oom.look(now)
        self._reap()  # a signal's byte may have been lost in a full pipe
        if not self._over and not self._in_place():
            self._put_back()

    def _in_place(self) -> bool:
        if not files.in_place(self._directory, self._lock):
            return False
        names = [files.ENGINE] if self._address.startswith("@") else [files.ENGINE, files.SOCKET]
        return all(os.path.lexists(os.path.join(self._directory, name)) for name in names)

    def _put_back(self) -> None:
        """Make files again that were removed. If another keeper has taken the place, this engine has to end."""
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            if not files.in_place(self._directory, self._lock):
                lock = files.take_lock(self._directory)
                if lock is None:
                    self._output.note("another keeper has taken this directory: the engine is stopped")
                    self.order_stop(self._spec["grace_s"])
                    return
                # The guard has a copy of the old descriptor only, so its number must not change its meaning there.
                os.close(self._lock)
                self._lock = lock
            sock, self._address = address.listen(self._directory)
        except OSError:
            return  # the next tick tries again
        self._control.replace(sock)
        self._document["socket"] = self._address
        self._write(files.ENGINE, self._document)

    def _write(self, name: str, document: dict[str, Any]) -> None:
        try:
            files.write(self._directory, name, document)
        except OSError as error:
            self._output.note(f"{name} cannot be written: {error.strerror}")

    def _finish(self) -> None:
        self._over = True
        self._output.drain()
        self._output.close()
        if files.in_place(self._directory, self._lock) and not self._address.startswith("@"):
            files.remove(os.path.join(self._directory, files.SOCKET))
        self._control.close()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        ask = question.get("ask")
        if ask == "beat":
            self._orphan_at = time.monotonic() + self._spec["orphan_timeout_s"]
            return {"ok": True}
        if ask == "stop":
            grace = question.get("grace_s")
            self.order_stop(float(grace) if isinstance(grace, int | float) else self._spec["grace_s"])
            return {"ok": True}
        if ask == "kill":
            self.order_stop(0.0)
            return {"ok": True}
        if ask in ("status", "watch"):
            return self._status()
        return {"error": f"unknown question {ask!r}"}

    def _status(self) -> dict[str, Any]:
        return {
            "schema": files.SCHEMA,
            "keeper_pid": os.getpid(),
            "engine_pid": self._pid,
            "boot_id": self._document["boot_id"],
            "start_ticks": self._document["start_ticks"],
            "spec_hash": self._spec["spec_hash"],
            "started_at": self._started_at,
            "pids": [pid for pid in tree(os.getpid()) if pid != self._stop_pid],
            "exit": self._exit,
            "stopping": self._stopping,
            "about": self._spec["about"],
        }


def _wake_by_signals() -> socket.socket:
    """A socket that is readable after SIGCHLD and SIGTERM, and holds the numbers."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, _nothing)
    signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
    return woken


def _nothing(*_: object) -> None:
    """The wakeup descriptor does the work. An ignored SIGCHLD would discard exit statuses."""
