"""Ctrl-C while a line or an answer is awaited, without the moment in which Python overlooks it."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_LOOK_S = 0.05


class InterruptWatch:
    """Repeats a signal that came just before a wait began, and so has no effect.

    Readline shows its prompt, and then waits for a key. A signal between the two interrupts nothing: Python notes it,
    and handles it after the next key. The same is true of a socket and its next bytes. Here the signal also makes a pipe
    readable, which its handler empties. A thread sends the signal again while the pipe stays readable.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._is_active = False
        self._handled = 0
        self._main = threading.get_ident()
        threading.Thread(target=self._repeat, daemon=True).start()

    @contextmanager
    def watching(self, on_interrupt: Callable[[], None] = lambda: None) -> Iterator[None]:
        """``on_interrupt`` is called for each Ctrl-C within the block, then ``KeyboardInterrupt`` is raised."""

        def interrupted(number: int, frame: object) -> None:
            self._handled += 1
            self._empty()
            on_interrupt()
            raise KeyboardInterrupt

        self._empty()
        handler = signal.signal(signal.SIGINT, interrupted)
        descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGINT, handler)
            self._empty()

    def _empty(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def _repeat(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the main thread must get it
        while True:
            select.select([self._read], [], [])
            handled = self._handled
            time.sleep(_LOOK_S)
            is_left, _, _ = select.select([self._read], [], [], 0)
            # The handler may have run since the look, or between the two looks.
            if is_left and self._is_active and self._handled == handled:
                signal.pthread_kill(self._main, signal.SIGINT)
