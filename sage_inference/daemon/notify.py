"""Reports the gateway's state to a supervisor such as systemd (sd_notify)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping

# The server calls ``watchdog`` once a second.
_TICK_S = 1.0


class Notifier:
    """Sends nothing without a supervisor. Never raises, because a gateway goes on without its supervisor."""

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._interval = None if watchdog_s is None else watchdog_s / 2
        self._clock = clock
        self._last = clock()

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Use the supervisor's variables, and remove them, so that no engine sends messages in our name."""
        address = environ.pop("NOTIFY_SOCKET", None) or None
        pid = environ.pop("WATCHDOG_PID", None)
        interval = _microseconds(environ.pop("WATCHDOG_USEC", None))
        if pid is not None and pid != str(os.getpid()):
            interval = None
        return cls(address if address and address[0] in "/@" else None, interval)

    @property
    def listened_to(self) -> bool:
        return self._address is not None

    def ready(self, status: str = "") -> None:
        self._send("READY=1", *([f"STATUS={status}"] if status else ()))

    def reloading(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, status: str = "") -> None:
        self._send("STOPPING=1", *([f"STATUS={status}"] if status else ()))

    def watchdog(self) -> None:
        """Report that the gateway works, twice in each watchdog interval. Call this every second."""
        if self._interval is None or self._clock() + _TICK_S <= self._last + self._interval:
            return
        self._last = self._clock()
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # "@name" is in Linux's abstract namespace, where the kernel wants a NUL in place of the @.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)
            ) as sock:
                # Do not wait: a full queue must not hold up the event loop.
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            pass


def _microseconds(text: str | None) -> float | None:
    if text is None or not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return int(text) / 1_000_000
