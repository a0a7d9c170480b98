"""Whether the running gateway has a change of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sage_inference.cli import terminal
from sage_inference.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.errors import DaemonError


@dataclass(frozen=True, slots=True)
class Applied:
    """``ids`` are those of the gateway's keys after the change, None without a gateway or where it has ``failure``."""

    ids: Sequence[str] | None
    failure: DaemonError | None = None

    def has(self, key_id: str | None) -> bool | None:
        """Whether the gateway has the key. None without a gateway."""
        if self.failure is not None:
            return False
        return None if self.ids is None else key_id in self.ids


def applied(paths: Paths, path: Path) -> Applied:
    """Have the gateway read the changed file. The change stays in the file whatever comes of that."""
    from sage_inference.daemon.errors import DaemonError
    from sage_inference.daemon.keys import take_up

    try:
        keys = take_up(paths, path)
    except DaemonError as error:
        return Applied(None, error)
    return Applied(None if keys is None else [key["id"] for key in keys])


def explain(outcome: Applied, what: str, *, is_done: bool | None) -> None:
    """Report on stderr whether the gateway ``what``. Exits with 1 if it runs and does not."""
    if is_done:
        terminal.talk(f"the gateway {what} from now on")
    elif outcome.failure is not None:
        terminal.warn(f"not applied: {outcome.failure.problem}", outcome.failure.hint)
        raise typer.Exit(ExitCode.FAILED)
    elif outcome.ids is None:
        terminal.talk("no gateway of this user runs now")
    elif is_done is False:
        terminal.warn(
            "not applied: the gateway that runs got its key on its command line",
            "restart it without --api-key",
        )
        raise typer.Exit(ExitCode.FAILED)
