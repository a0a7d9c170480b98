"""One GPU and the engines that share it: each engine is slower while another one is busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Two processes that time-slice one H100 run at about 45 % of their own speed, measured with the step times.
SHARED = 0.45


class Engine(Protocol):
    turned: Callable[[], None]

    @property
    def busy(self) -> bool: ...

    def set_speed(self, speed: float) -> None: ...


class GPU:
    """Sets the speed of its engines whenever one becomes busy or idle."""

    def __init__(self, *engines: Engine) -> None:
        self._engines = engines
        self._speed = 1.0  # of the GPU itself
        self._applied = 1.0
        for engine in engines:
            engine.turned = self._settle

    def slow_down(self, factor: float) -> None:
        """Make all work take ``factor`` times as long from now on."""
        self._speed = 1 / factor
        self._settle()

    def _settle(self) -> None:
        crowded = sum(engine.busy for engine in self._engines) > 1
        speed = self._speed * (SHARED if crowded else 1.0)
        if speed != self._applied:
            self._applied = speed
            for engine in self._engines:
                engine.set_speed(speed)
