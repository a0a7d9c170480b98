"""One benchmark under way: its engines, its targets, and fresh ones where a scenario needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from tests.bench.errors import BenchError
from tests.bench.targets.base import KINDS, Kind, Launcher, Target
from tests.bench.targets.engines import Engines

DIRECT = "direct"


class Bench:
    """Targets are started when first asked for, and stay; ``stack`` stops everything."""

    def __init__(self, stack: ExitStack, launchers: Sequence[Launcher]) -> None:
        self._stack = stack
        self.engines = Engines(stack)
        self.launchers: Mapping[str, Launcher] = {launcher.name: launcher for launcher in launchers}
        self._started: dict[str, Target | None] = {DIRECT: self.engines.direct()}

    def target(self, name: str) -> Target | None:
        """None if it could not be started; that is told once."""
        if name not in self._started:
            try:
                self._started[name] = self.launchers[name].start(self._stack, self.engines.urls)
            except BenchError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                self._started[name] = None
        return self._started[name]

    @contextmanager
    def fresh(self, launcher: str | Launcher, kinds: Iterable[Kind] = KINDS) -> Iterator[Target]:
        """A target that has served nothing yet; it is stopped afterwards."""
        if launcher == DIRECT:
            yield self.engines.direct()
            return
        found = self.launchers[launcher] if isinstance(launcher, str) else launcher
        with ExitStack() as stack:
            yield found.start(stack, self.engines.urls, kinds)
