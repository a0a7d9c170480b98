"""Tells a supervisor such as systemd how we are doing (sd_notify)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping

# The server gives a sign of life once a second.
_TICK_S = 1.0


class Notifier:
    """Sends nothing where nobody listens. Never raises: a supervisor that is gone is no reason to stop."""

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
        """What the supervisor left for this process; taken out, so that no engine speaks in our name."""
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
        """Called every second; a sign of life goes out at half of what the watchdog waits."""
        if self._interval is None or self._clock() + _TICK_S <= self._last + self._interval:
            return
        self._last = self._clock()
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # "@name" is Linux's abstract namespace, which the kernel knows with a NUL in front.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)
            ) as sock:
                # A full queue must not hold up the event loop.
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            pass


def _microseconds(text: str | None) -> float | None:
    if text is None or not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return int(text) / 1_000_000
