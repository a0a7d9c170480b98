"""Keeps the lock, the pidfile and the name of a running gateway in place."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time

from sage_inference.config.paths import Paths
from sage_inference.daemon import handover, pidfile
from sage_inference.daemon.directories import ensure
from sage_inference.daemon.end_report import EndListeners
from sage_inference.daemon.errors import DaemonError
from sage_inference.daemon.handover import Listening
from sage_inference.daemon.lock import Lock
from sage_inference.daemon.pidfile import PidInfo

log = logging.getLogger("sage_inference.daemon")

_LOOK_S = 1.0


class OwnFiles:
    """Puts the files back if they are removed, and passes the gateway's place to a successor.

    This has a thread of its own, because neither a hanging file system nor a successor may hold up the event loop.
    ``lock`` is None in a successor until it has taken the lock over.
    """

    def __init__(self, paths: Paths, lock: Lock | None) -> None:
        self._paths = paths
        self._lock = lock
        self._info: PidInfo | None = None
        self._copy: int | None = None  # of the pidfile
        self._written: os.stat_result | None = None
        self._mutex = threading.Lock()
        self._listening: Listening | None = None
        self._left = False
        self._end_listeners = EndListeners()
        self._complained = ""
        self._woken, self._wake = socket.socketpair()
        self._thread: threading.Thread | None = None

    def note(self, info: PidInfo) -> None:
        """Write the pidfile, unless it still belongs to a predecessor or already to a successor."""
        with self._mutex:
            self._info = info
            if self._lock is not None and not self._left:
                self._write()

    def adopt(self, lock: Lock) -> None:
        """Take the lock that a predecessor passed on."""
        with self._mutex:
            self._lock = lock
            with contextlib.suppress(DaemonError):  # the thread tries again
                self._write()

    def keep(self, listening: Listening) -> None:
        """Start the thread. From now on a successor may take ``listening`` over."""
        self._listening = listening
        self._thread = threading.Thread(target=self._run, name="own-files", daemon=True)
        self._thread.start()

    @property
    def left(self) -> bool:
        """Whether a successor has taken this gateway's place."""
        return self._left

    def report_end(self, counts: dict[str, int]) -> None:
        """Report what became of the last requests, to those who asked for it."""
        self._end_listeners.report(counts)

    def refuse(self) -> None:
        """Refuse every successor from now on."""
        self._listening = None

    def close(self) -> None:
        """Remove the pidfile, then release the lock: a process that finds the lock free finds no files left."""
        if self._thread is not None:
            self._wake.close()
            self._thread.join(_LOOK_S)
        with self._mutex:
            lock, self._lock = self._lock, None
            if lock is None or self._left:
                return
            with contextlib.suppress(DaemonError):
                pidfile.remove(self._paths.pid_file)
            lock.release()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        name = self._lock.presence if self._lock else None
        if name is not None:
            poll.register(name.sock, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll(1000 * _LOOK_S)}
            if self._woken.fileno() in ready:
                return
            if name is not None and name.sock.fileno() in ready and self._answer(name.sock):
                return
            self._look()

    def _answer(self, sock: socket.socket) -> bool:
        """Answer one connection to the name. True if the place was passed on."""
        try:
            connection, _ = sock.accept()
        except OSError:
            # Without free descriptors the connection stays in the backlog, and poll would report it again at once.
            time.sleep(_LOOK_S)
            return False
        with connection:
            lock, listening = self._lock, self._listening
            if lock is None or listening is None:
                return False
            if not handover.give(
                connection, lock.descriptors, listening, self._leave, self._end_listeners.add
            ):
                return False
        log.info("a successor has taken over")
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    def _leave(self) -> None:
        with self._mutex:
            if self._lock is None:
                raise OSError("the gateway has ended meanwhile")
            self._left = True
            self._lock.leave()

    def _look(self) -> None:
        with self._mutex:
            if self._lock is None or self._left or (self._lock.in_place and self._pidfile_in_place()):
                return
            try:
                ensure(self._paths)
                if self._lock.in_place or self._lock.put_back():
                    self._write()
                    log.warning("files in %s were removed or replaced; they are back", self._paths.state_dir)
                    self._complained = ""
            except (DaemonError, OSError) as error:
                if str(error) != self._complained:
                    log.warning(
                        "files in %s are gone and cannot be put back: %s", self._paths.state_dir, error
                    )
                self._complained = str(error)

    def _pidfile_in_place(self) -> bool:
        try:
            there = self._paths.pid_file.lstat()
        except OSError:
            return False
        before = self._written
        # The time is compared too, because a new file may get the inode number of the removed one.
        return before is not None and (there.st_dev, there.st_ino, there.st_ctime_ns) == (
            before.st_dev,
            before.st_ino,
            before.st_ctime_ns,
        )

    def _write(self) -> None:
        if self._info is None:
            return
        old, self._copy = self._copy, pidfile.copy_in_memory(self._info)
        if old is not None:
            os.close(old)
        self._written = None
        pidfile.write(self._paths.pid_file, self._info)
        with contextlib.suppress(OSError):
            self._written = self._paths.pid_file.lstat()
