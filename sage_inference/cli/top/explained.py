"""Decisions on requests, fetched by a thread so that a slow answer keeps no key waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Ask = Callable[[str], list[dict[str, Any]]]


class Explanations:
    """The attempts of one request at a time, or the sentence why there are none."""

    def __init__(self, ask: Ask, wake: Callable[[], None]) -> None:
        """``wake`` is called when an answer has come."""
        self._ask = ask
        self._wake = wake
        self._wanted: str | None = None
        self._found: tuple[str, list[dict[str, Any]] | str] | None = None

    def of(self, request_id: str | None) -> list[dict[str, Any]] | str | None:
        """The answer for this request, None until it comes. The first call for a request asks for it."""
        if request_id != self._wanted:
            self._wanted, self._found = request_id, None
            if request_id is not None:
                threading.Thread(target=self._fetch, args=(request_id,), daemon=True).start()
        found = self._found
        return found[1] if found is not None and found[0] == request_id else None

    def _fetch(self, request_id: str) -> None:
        try:
            found: list[dict[str, Any]] | str = self._ask(request_id)
        except Exception as error:
            found = str(error)
        self._found = request_id, found
        self._wake()


def ask_gateway(request_id: str) -> list[dict[str, Any]]:
    """The attempts of the request, from the running gateway. Raises ``DaemonError``."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.explain import explain

    return list(explain(Paths.resolve(), request_id)["attempts"])
