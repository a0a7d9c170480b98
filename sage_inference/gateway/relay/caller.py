"""The interface through which an exchange writes to its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, TypeVar

from sage_inference.wire.message import Data
from sage_inference.wire.timers import Timed

Ended = TypeVar("Ended", contravariant=True)


class Sink(Timed, Protocol):
    """Takes the bytes of an answer. The deadlines of a request are set on it, too."""

    transport: asyncio.Transport

    def write(self, data: Data, /) -> None: ...

    def writelines(self, pieces: Iterable[Data], /) -> None: ...

    @property
    def reads_slowly(self) -> bool: ...


class Caller(Sink, Protocol[Ended]):
    """A sink that is notified of the end of its request. ``number`` is that of its connection."""

    number: int

    def ended(self, exchange: Ended, close: bool) -> None: ...

    def reset(self) -> None: ...
