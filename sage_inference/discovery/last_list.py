"""The list that holds, and the rules by which an answer of its source changes it. No clock, no socket."""

from __future__ import annotations

from sage_inference.config.address import parse_backend
from sage_inference.config.check import name_of
from sage_inference.discovery.source import Listing, Offered


class LastList:
    """The last good list of a source. ``offered`` is None before the first one.

    - A source that gives no list changes nothing, however long that lasts.
    - An empty list after a full one counts when the source gives it twice running.
    - While a list is not settled, engines that are missing from it stay.
    """

    def __init__(self) -> None:
        self.offered: tuple[Offered, ...] | None = None
        self.was_empty = False  # at the last look

    def failed(self) -> None:
        """The source gave no list."""
        self.was_empty = False

    def take(self, listing: Listing) -> bool:
        """Apply an answer. Returns whether the list changed."""
        before = self.offered
        is_empty = listing.settled and not listing.offered
        if is_empty and before and not self.was_empty:
            self.was_empty = True
            return False
        self.was_empty = is_empty
        self.offered = listing.offered if listing.settled else _with_missing(listing.offered, before or ())
        return self.offered != before


def _with_missing(offered: tuple[Offered, ...], before: tuple[Offered, ...]) -> tuple[Offered, ...]:
    """``offered``, and those before whose name and address no other engine has now."""
    names = {name_of(each.settings) for each in offered}
    addresses = {parse_backend(each.settings.url).identity for each in offered}
    missing = (
        each
        for each in before
        if name_of(each.settings) not in names and parse_backend(each.settings.url).identity not in addresses
    )
    return (*offered, *missing)
