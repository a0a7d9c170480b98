"""One benchmark under way: its engines, its targets, and fresh ones where a scenario needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from tests.bench.errors import BenchError
from tests.bench.targets.base import Kind, Launcher, Target
from tests.bench.targets.engines import Engines

DIRECT = "direct"


class Bench:
    """Targets are started when first asked for; ``stack`` stops everything."""

    def __init__(self, stack: ExitStack, launchers: Sequence[Launcher]) -> None:
        self.engines = Engines(stack)
        self.launchers: Mapping[str, Launcher] = {launcher.name: launcher for launcher in launchers}
        self._stacks = {name: stack.enter_context(ExitStack()) for name in self.launchers}
        self._started: dict[str, Target | None] = {DIRECT: self.engines.direct()}

    def target(self, name: str) -> Target | None:
        """None if it could not be started; that is told once."""
        if name not in self._started:
            try:
                self._started[name] = self.launchers[name].start(self._stacks[name], self.engines.urls)
            except BenchError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                self._started[name] = None
        return self._started[name]

    def stop_others(self, names: Iterable[str]) -> None:
        """Stops the targets that are not named: even an idle one may take of the gateway's core."""
        for name in set(self._stacks) - set(names):
            self._stacks[name].close()
            if self._started.get(name):
                del self._started[name]

    @contextmanager
    def fresh(self, launcher: str | Launcher, kinds: Iterable[Kind]) -> Iterator[Target]:
        """A target that has served nothing yet; it is stopped afterwards."""
        if launcher == DIRECT:
            yield self.engines.direct()
            return
        found = self.launchers[launcher] if isinstance(launcher, str) else launcher
        with ExitStack() as stack:
            yield found.start(stack, self.engines.urls, kinds)
