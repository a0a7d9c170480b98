"""Starts, finds, asks and stops keepers. No question takes more than 2 s."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.keeper import address, files
from sage_inference.keeper.engine_log import StartLog, follow
from sage_inference.keeper.errors import AlreadyKeptError, KeeperError, LostKeeperError
from sage_inference.keeper.linux import boot_id, start_ticks
from sage_inference.keeper.spec import ExitRecord, KeeperSpec, KeeperStatus

if TYPE_CHECKING:
    from sage_inference.keeper.launching import Supervisor

__all__ = [
    "AlreadyKeptError",
    "EngineEndedError",
    "KeeperError",
    "KeeperLink",
    "LostKeeperError",
    "StartLog",
    "adopt",
    "directories",
    "follow",
    "launch",
    "read_exit",
    "stop_all",
]

_QUESTION_S = 2.0
_RETRY_S = 0.02
_KILLED_S = 10.0  # from SIGKILL until an engine counts as stuck
_ENDING_S = 5.0  # from the end of the connection to the keeper until its lock is free


class EngineEndedError(KeeperError):
    """The engine was executed, and ended before its keeper could be asked. ``record`` is its end."""

    def __init__(self, message: str, record: ExitRecord | None) -> None:
        super().__init__(message)
        self.record = record


class KeeperLink:
    """A keeper that has proved to be the one that ``engine.json`` names.

    ``fileno()`` is readable when the engine's first process has ended, and when the keeper has ended: ``look`` then
    returns what happened. Use it as a context, or ``close`` it.
    """

    def __init__(self, directory: Path, document: dict[str, Any]) -> None:
        """Raises ``OSError``, ``ValueError``, ``KeyError`` or ``TypeError`` if the keeper does not prove itself."""
        self.directory = directory
        self._document = document
        self._where = str(document["socket"])
        self.keeper_pid = int(document["keeper_pid"])
        self.grace_s = float(document["grace_s"])
        self._check()
        self._lines = b""
        self.exit: ExitRecord | None = None
        self.ended = False  # the keeper
        self._watch, line, self._lines = self._ask({"ask": "watch"})
        try:
            answer = json.loads(line)
            if answer["schema"] != files.SCHEMA:
                raise ValueError("it is of another version of sage-inference")
            self.first = KeeperStatus.from_document(answer)
            if (self.first.keeper_pid, self.first.start_ticks) != (self.keeper_pid, document["start_ticks"]):
                raise ValueError("another process answered")
        except BaseException:
            self._watch.close()
            raise
        self.exit = self.first.exit

    def _check(self) -> None:
        """Raises ``ValueError`` unless the recorded pid is still the recorded process."""
        if self._document["boot_id"] != boot_id():
            raise ValueError("engine.json is of another boot of this machine")
        if start_ticks(self.keeper_pid) != self._document["start_ticks"]:
            raise ValueError(f"pid {self.keeper_pid} is not the process that engine.json names")

    def __enter__(self) -> KeeperLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The keeper and the engine run on."""
        self._watch.close()

    def fileno(self) -> int:
        return self._watch.fileno()

    def status(self) -> KeeperStatus:
        """Raises ``KeeperError``, also if the keeper has ended."""
        try:
            return KeeperStatus.from_document(self._answer({"ask": "status"}))
        except (KeyError, TypeError, ValueError) as error:
            raise KeeperError(f"keeper {self.keeper_pid} did not answer rightly: {error}") from None

    def beat(self) -> None:
        """Report that a gateway is there. Without a beat for the orphan timeout the keeper stops the engine."""
        self._answer({"ask": "beat"})

    def stop(self, grace_s: float | None = None) -> None:
        """Order the stop, and return at once: SIGTERM, and after the grace SIGKILL to all processes of the engine."""
        self._answer({"ask": "stop", "grace_s": grace_s})

    def kill(self) -> None:
        self._answer({"ask": "kill"})

    def look(self) -> ExitRecord | None:
        """Read what the connection holds, without waiting. Sets ``exit`` and ``ended``; returns ``exit``."""
        while not self.ended and self._readable(0):
            try:
                data = self._watch.recv(65536)
            except OSError:
                data = b""
            self.ended = not data
            self._lines += data
        *lines, self._lines = self._lines.split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event.get("event") == "exit":
                self.exit = ExitRecord.from_document(event["exit"])
        return self.exit

    def wait_exit(self, timeout_s: float | None = None) -> ExitRecord | None:
        """Wait until all processes of the engine and the keeper have ended. None after the timeout.

        Raises ``LostKeeperError`` if the keeper was killed and nothing recorded the engine's end.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.ended:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._readable(left)
            self.look()
        # A guard may end what a killed keeper left, and holds the lock meanwhile.
        limit = time.monotonic() + _ENDING_S if deadline is None else deadline
        while self._is_held():
            if time.monotonic() > limit:
                return None
            time.sleep(_RETRY_S)
        record = self.exit or read_exit(self.directory)
        if record is None:
            words = files.last_words(str(self.directory))
            raise LostKeeperError(
                f"keeper {self.keeper_pid} died and left no record of the engine's end{words}"
            )
        return record

    def _is_held(self) -> bool:
        try:
            return files.is_held(str(self.directory))
        except OSError as error:
            raise KeeperError(f"{error.filename} cannot be read: {error.strerror}") from None

    def _readable(self, timeout_s: float | None) -> bool:
        ready = select.poll()  # not select(), which knows no descriptor above 1023
        ready.register(self._watch, select.POLLIN)
        return bool(ready.poll(None if timeout_s is None else timeout_s * 1000))

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            sock, line, _ = self._ask(question)
            sock.close()
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise KeeperError(
                f"keeper {self.keeper_pid} of {self.directory} does not answer: {error}"
            ) from None
        if not isinstance(answer, dict) or "error" in answer:
            raise KeeperError(f"keeper {self.keeper_pid} of {self.directory} refused: {answer}")
        return answer

    def _ask(self, question: dict[str, Any]) -> tuple[socket.socket, bytes, bytes]:
        """A new connection, the answer's line, and what came after it."""
        sock = address.connect(str(self.directory), self._where, _QUESTION_S)
        try:
            if address.peer(sock) != self.keeper_pid:
                raise ValueError("the socket belongs to another process")
            sock.sendall(json.dumps(question).encode() + b"\n")
            deadline = time.monotonic() + _QUESTION_S
            data = b""
            while b"\n" not in data:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                piece = sock.recv(65536)
                if not piece:
                    raise ValueError("it closed the connection")
                data += piece
        except BaseException:
            sock.close()
            raise
        line, _, rest = data.partition(b"\n")
        return sock, line, rest


def launch(spec: KeeperSpec, supervisor: Supervisor = "auto") -> KeeperLink:
    """Start the engine under a new keeper. Returns when the engine was executed and the keeper answers.

    Raises ``AlreadyKeptError`` if a keeper holds this directory already, ``EngineEndedError`` if the engine has ended
    before this returns, and ``KeeperError``.
    """
    from sage_inference.keeper import launching  # late: ps only adopts, and need not load OpenSSL

    launching.start(spec, supervisor)
    directory = Path(spec.directory)
    link = adopt(directory)
    if link is not None:
        return link
    # The engine ended at once. Its keeper recorded that.
    record = read_exit(directory)
    raise EngineEndedError(f"engine {spec.name} ended at once: {_words(record)}", record)


def adopt(directory: Path) -> KeeperLink | None:
    """The keeper of this directory. None if nobody holds its lock: then ``read_exit`` has the engine's end.

    Raises ``LostKeeperError`` if the lock is held and no keeper proves within 2 s to be its holder.
    """
    deadline = time.monotonic() + _QUESTION_S
    reason = "it left no engine.json"
    while True:
        try:
            if not files.is_held(str(directory)):
                return None
            document = files.read(str(directory), files.ENGINE)
            if document is not None:
                return KeeperLink(directory, document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise LostKeeperError(
                f"a process holds {directory / files.LOCK} and does not prove to be the engine's keeper: {reason}",
                f"fuser {directory / files.LOCK} shows the process",
            )
        time.sleep(_RETRY_S)


def read_exit(directory: Path) -> ExitRecord | None:
    """How the engine ended that ran in this directory last. None if it runs, or its end was not recorded."""
    document = files.read(str(directory), files.EXIT)
    try:
        return None if document is None else ExitRecord.from_document(document)
    except (TypeError, ValueError):
        return None


def directories(state_dir: Path) -> list[Path]:
    """The directories of engines that have run on behalf of this gateway, by name."""
    try:
        found = sorted((state_dir / files.FOLDER).iterdir())
    except OSError:
        return []
    return [each for each in found if (each / files.LOCK).exists()]


def stop_all(
    state_dir: Path, grace_s: float | None = None, left: Callable[[str, str], None] | None = None
) -> list[str]:
    """Stop every engine, all at the same time, and wait. Returns the names of those that have ended.

    ``left`` gets the name of each engine that may live on, and the reason. A ``grace_s`` of None means each engine's own.
    """
    links: list[KeeperLink] = []
    stopped = []
    for directory in directories(state_dir):
        try:
            if (link := adopt(directory)) is not None:
                links.append(link)
        except LostKeeperError as error:
            if left is not None:
                left(directory.name, str(error))
    for link in links:
        with contextlib.suppress(KeeperError):  # it ends just now, or it hangs, which the wait shows
            link.stop(grace_s)
    for link in links:
        with link:
            grace = link.grace_s if grace_s is None else grace_s
            try:
                record = link.wait_exit(grace + _KILLED_S)
                problem = "it was killed and is still there; the system holds it" if record is None else None
            except LostKeeperError:  # it has ended, and its record was not written
                problem = None
            except KeeperError as error:
                problem = str(error)
            if problem is None:
                stopped.append(link.directory.name)
            elif left is not None:
                left(link.directory.name, problem)
    return stopped


def _words(record: ExitRecord | None) -> str:
    if record is None:
        return "its end was not recorded"
    if record.signal is not None:
        return f"killed by signal {record.signal}"
    return f"status {record.status}"
