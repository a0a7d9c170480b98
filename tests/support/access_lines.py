"""The lines that the access log gets, as they come."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from typing import Any

import pytest


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: queue.Queue[dict[str, Any]] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.found.put({"message": record.getMessage(), **vars(record)})

    def one(self) -> dict[str, Any]:
        return self.found.get(timeout=10)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log = logging.getLogger("sage_inference.access")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)
