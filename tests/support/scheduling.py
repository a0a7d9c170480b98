"""How pytest-xdist shares the tests out: by files, the long ones first."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

# Each takes half a minute or more. A long file that comes last keeps one worker busy while the other idles.
LONGEST = (
    "tests/bench/test_soak.py",
    "tests/integration/test_real_engines.py",
)


class FilesLongestFirst(LoadGroupScheduling):  # type: ignore[misc]
    """One worker runs all tests of a file, so the engines and gateways that they share are started once.

    Tests of one ``xdist_group`` still go together, whatever their files.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # that is by the number of tests, which is unlike their time

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Sort ``items`` in place; the order within a file, and of the other files, stays."""
    rank = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
