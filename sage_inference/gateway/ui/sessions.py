"""The sessions of pages: opened by a one-time code or by a key, and held in memory.

``keep_in`` keeps their digests in a file across a restart.

A page sends its token as ``Authorization: Bearer``. It gets no cookie: browsers send cookies to every port of a host, so
another user's server on this machine would get them, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

from sage_inference.gateway.ui import session_file
from sage_inference.gateway.ui.session_file import PageSession

CODE_S = 60.0
SESSION_S = 12 * 3600.0
MOST_CODES = 16
MOST_SESSIONS = 64
WRONG_KEYS, MORE_AFTER_S = 10, 6.0  # guesses in a row, and the time after which there is one more


class Sessions:
    """Codes and tokens by their digests. The oldest one goes when there are too many.

    ``on_end`` is called when a session has ended, because heads with its token may be cached.
    """

    def __init__(self, clock: Callable[[], float], on_end: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._on_end = on_end
        self._codes: dict[bytes, float] = {}
        self._sessions: dict[bytes, PageSession] = {}
        self._guesses = _Guesses(clock)
        self._file: Path | None = None
        self._changed = False  # since the file was written

    def new_code(self) -> str:
        """A code that opens one session within ``CODE_S``."""
        code = secrets.token_urlsafe(24)
        _make_room(self._codes, MOST_CODES)
        self._codes[_digest(code)] = self._clock() + CODE_S
        return code

    def open_with_code(self, code: str) -> str | None:
        """The token of a new session; None for a code that is wrong, too old, or was used. A code cannot be guessed."""
        ends_at = self._codes.pop(_digest(code), None)
        return None if ends_at is None or ends_at < self._clock() else self._open(None)

    def open_with_key(self, key: str, is_right: bool) -> str | None:
        """The token of a new session, if the key is right. Raises ``TooManyGuesses``."""
        self._guesses.check()
        if not is_right:
            self._guesses.wrong()
            return None
        return self._open(_digest(key))

    def key_of(self, token_digest: bytes) -> tuple[bool, bytes | None]:
        """Whether the session is open, and the digest of the key that it depends on."""
        session = self._sessions.get(token_digest)
        if session is None or session.ends_at < self._clock():
            return False, None
        return True, session.key

    def close(self, token: bytes) -> None:
        if self._sessions.pop(_digest(token), None) is not None:
            self._ended()
            self._write()

    def keep_in(self, directory: Path) -> None:
        """Take up the sessions of an earlier gateway, and keep them there from now on. None lasts longer than a new one."""
        self._file = directory / session_file.FILE
        now = self._clock()
        found = {
            token: each
            for token, each in session_file.read(self._file).items()
            if now < each.ends_at <= now + SESSION_S
        }
        self._sessions |= dict(list(found.items())[-MOST_SESSIONS:])

    def _write(self) -> None:
        """Write what has changed. Where that fails, pages have to be opened anew after a restart."""
        if self._changed and self._file is not None:
            self._changed = False
            with contextlib.suppress(OSError):
                session_file.write(self._file, self._sessions)

    def tick(self) -> None:
        """Has to be called about once a second: ends what is too old, and writes what has changed."""
        now = self._clock()
        self._codes = {digest: ends_at for digest, ends_at in self._codes.items() if ends_at >= now}
        over = [digest for digest, session in self._sessions.items() if session.ends_at < now]
        for digest in over:
            del self._sessions[digest]
        if over:
            self._ended()
        self._write()

    def _ended(self) -> None:
        self._changed = True
        self._on_end()

    def _open(self, key: bytes | None) -> str:
        token = secrets.token_urlsafe(32)
        if _make_room(self._sessions, MOST_SESSIONS):
            self._ended()
        self._changed = True
        self._sessions[_digest(token)] = PageSession(self._clock() + SESSION_S, key)
        self._write()
        return token


class TooManyGuesses(Exception):
    """Too many wrong keys came in a short time. ``retry_after_s``: when the next one may come."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many wrong keys; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class _Guesses:
    """A bucket of wrong keys that drains by one in ``MORE_AFTER_S``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._empty_at = 0.0  # when all wrong keys are forgotten

    def check(self) -> None:
        left = self._empty_at - self._clock() - (WRONG_KEYS - 1) * MORE_AFTER_S
        if left > 0:
            raise TooManyGuesses(int(left) + 1)

    def wrong(self) -> None:
        self._empty_at = max(self._empty_at, self._clock()) + MORE_AFTER_S


def _make_room(held: dict[bytes, float] | dict[bytes, PageSession], most: int) -> bool:
    """Forget the oldest one if there are as many as may be. Returns whether there were."""
    if len(held) < most:
        return False
    del held[next(iter(held))]
    return True


def _digest(secret: str | bytes) -> bytes:
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()
