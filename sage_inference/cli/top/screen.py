"""The loop of ``top`` on a terminal: documents of the gateway and keys of a person, drawn in place."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from sage_inference.cli.top.explained import Explanations, ask_gateway
from sage_inference.cli.top.feed import Glance, Outage
from sage_inference.cli.top.frame import Size, frame
from sage_inference.cli.top.grid import Line, Styled
from sage_inference.cli.top.keyboard import ENDS, Keyboard
from sage_inference.cli.top.pace import Pacing
from sage_inference.cli.top.paint import OtherScreen, terminal_size
from sage_inference.cli.top.seen import Picture, Seen
from sage_inference.cli.top.view import TopView

Feed = Iterator[Glance | Outage]


class FollowedFeed:
    """A feed that a thread reads, so that a gateway which hangs never keeps a key waiting."""

    def __init__(self, feed: Feed, wake: Callable[[], None]) -> None:
        self._feed = feed
        self._wake = wake
        self._found: deque[Glance | Outage] = deque(maxlen=3600)
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            for found in self._feed:
                self._found.append(found)
                self._wake()
        except Exception as error:
            self._error = error
            self._wake()

    def take(self) -> list[Glance | Outage]:
        """The glances and outages since the last call. Raises the error that ended the feed."""
        if self._error is not None:
            raise self._error
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found


def show(feed: Feed, view: TopView, every_s: float, colour: bool | None) -> None:
    """Show the feed until q, Ctrl-C or a signal."""
    with Keyboard() as keyboard, OtherScreen(colour) as screen:
        explanations = Explanations(ask_gateway, keyboard.wake)
        TopLoop(keyboard, screen, FollowedFeed(feed, keyboard.wake), explanations, view, every_s).run()


class TopLoop:
    """One thread that waits for keys, signals and documents, and draws after each."""

    def __init__(
        self,
        keyboard: Keyboard,
        screen: OtherScreen,
        feed: FollowedFeed,
        explanations: Explanations,
        view: TopView,
        every_s: float,
    ) -> None:
        self._keyboard, self._screen, self._feed = keyboard, screen, feed
        self._explanations, self._view = explanations, view
        self._seen = Seen()
        self._picture: Picture | None = None
        self._pacing = Pacing(every_s)
        self._size = (0, 0)

    def run(self) -> None:
        must_draw = True
        while True:
            if must_draw:
                self._draw()
            try:
                keys = self._keyboard.wait()
            except EOFError:
                return
            if any(self._view.press(key) for key in keys):
                return
            if "redraw" in keys:
                self._screen.clear()
            signals = self._keyboard.signals()
            if self._obey(signals):
                return
            must_draw = self._look() | self._explain() or bool(keys or signals)

    def _look(self) -> bool:
        """Take what the gateway sent. Returns whether there is something new to show."""
        came = self._feed.take()
        for found in came:
            self._seen.take(found)
        changed = any(isinstance(found, Outage) for found in came) or self._picture is None
        is_due = came and (self._pacing.is_due(time.monotonic()) or changed)
        if is_due and not self._view.is_paused:
            self._picture = self._seen.picture()
        return bool(is_due)

    def _explain(self) -> bool:
        """Get the decision on the request whose details are shown. Returns whether one came."""
        before, view = self._view.explanation, self._view
        view.explanation = self._explanations.of(view.explained)
        return view.explanation is not before

    def _obey(self, signals: list[int]) -> bool:
        """Do what the signals want. Returns True for Ctrl-C; other signals that end a program raise ``SystemExit``."""
        for number in signals:
            name = signal.Signals(number).name
            if name == "SIGINT":
                return True
            if name in ENDS:
                sys.exit(128 + number)
            if name == "SIGTSTP":
                self._screen.hide()
                self._keyboard.stop_process()
                self._screen.show()
            elif name == "SIGCONT":
                self._keyboard.take()
        return False

    def _draw(self) -> None:
        size = terminal_size()
        if size != self._size:
            self._size = size
            for table in self._view.tables.values():
                table.widths.clear()
        self._screen.draw(self._lines(size), size)

    def _lines(self, size: tuple[int, int]) -> list[Line]:
        if self._picture is None:
            return [[Styled("connecting to the gateway", "dim")]]
        return frame(self._picture, self._view, Size(*size))
