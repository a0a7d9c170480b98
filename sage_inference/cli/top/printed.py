"""``top`` without a screen: states one below the other, one alone, or documents as lines of JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from sage_inference.cli import terminal
from sage_inference.cli.errors import Failure
from sage_inference.cli.top.feed import Glance, Outage, Row
from sage_inference.cli.top.pace import Pacing
from sage_inference.cli.top.view import TopView

Feed = Iterator[Glance | Outage]


def text(feed: Feed, view: TopView, every_s: float, colour: bool | None, *, once: bool) -> None:
    """Print the state, or with ``once`` the first one. The first that has rates comes after a second."""
    from sage_inference.cli.top.frame import Size, frame
    from sage_inference.cli.top.paint import console, print_lines, terminal_size
    from sage_inference.cli.top.seen import Seen

    seen, pacing, output = Seen(), Pacing(every_s), console(colour)
    # The last column stays empty: some terminals break a line that fills it.
    width = max(terminal_size()[0] - 1, 1) if sys.stdout.isatty() else None
    for found in feed:
        seen.take(found)
        if isinstance(found, Outage):
            if once:
                raise _ended(found)
            terminal.say(f"{time.strftime('%H:%M:%S')} {found.reason}; trying again")
            continue
        picture = seen.picture()
        if picture is None or found.is_first or not pacing.is_due(time.monotonic()):
            continue
        print_lines(frame(picture, view, Size(width)), output)
        if once:
            return
        print_lines([[]], output)


def documents(feed: Feed, every_s: float, *, once: bool) -> None:
    """Print a document a line, with the requests that ended since the line before."""
    pacing = Pacing(every_s)
    ended: list[Row] = []
    for found in feed:
        if isinstance(found, Outage):
            if once:
                raise _ended(found)
            _print_document(None, found.reason, [])
            continue
        ended += found.ended
        if found.is_first or not pacing.is_due(time.monotonic()):
            continue
        _print_document(found.document, None, ended)
        if once:
            return
        ended = []


def _print_document(live: Row | None, reason: str | None, ended: list[Row]) -> None:
    terminal.say_json(
        {
            "schema": 1,
            "connected": live is not None,
            "reason": reason,
            "live": live,
            "requests_ended": ended,
        }
    )
    sys.stdout.flush()


def _ended(outage: Outage) -> Failure:
    return Failure(outage.reason, "sage inference status", "connection_lost")
