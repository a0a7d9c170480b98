"""Pipelined requests take turns: one connection in each iteration of the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol


class BackloggedSender(Protocol):
    """A connection from which more was read than was parsed."""

    def go_on(self) -> None: ...


class Backlog:
    """Calls ``go_on`` of one connection in each iteration of the event loop, in the order of ``add``.

    A caller that sends one request at a time does not come here, and waits for its own work only. Callers that
    pipeline wait for each other: otherwise ten of them would put ten requests before every other caller's.
    """

    __slots__ = ("_call_soon", "_waiting")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon  # the event loop's
        self._waiting: deque[BackloggedSender] = deque()

    def add(self, sender: BackloggedSender) -> None:
        if not self._waiting:
            self._call_soon(self._next)
        self._waiting.append(sender)

    def _next(self) -> None:
        sender = self._waiting.popleft()
        if self._waiting:
            self._call_soon(self._next)
        sender.go_on()
