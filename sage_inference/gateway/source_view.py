"""The sources as status and metrics show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_inference.discovery.watch import SourceWatch


class SourceView:
    """The sources of a gateway that has none."""

    @property
    def watches(self) -> Iterable[SourceWatch]:
        return ()

    def owner_of(self, name: str) -> str | None:
        """The label of the source that names an instance; None for an instance of somebody else."""
        return None

    def node_of(self, name: str) -> str | None:
        """The machine that an instance runs on, if its source names that."""
        return None

    def documents(self) -> list[dict[str, Any]]:
        """The state of each source."""
        return [watch.document() for watch in self.watches]
