"""The responses that a simulated vLLM keeps or generates in the background.

The store behaves like vLLM with ``VLLM_ENABLE_RESPONSES_API_STORE=1``: nothing is ever removed, and there is neither
``DELETE`` nor ``input_items``. Without the store no response is known, and none runs in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sage_inference.simulator.vllm.errors import ApiError

_LAST = b"event: response.completed\n"
_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background mode. To enable "
    "these features, set the environment variable `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)


@dataclass(slots=True, eq=False)
class Stored:
    """``messages`` are the request's, and ``document`` is the response. ``events`` is None unless streamed in background."""

    messages: list[Any]
    document: dict[str, Any]
    events: list[bytes] | None = None
    more: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def add(self, event: bytes) -> None:
        assert self.events is not None
        self.events.append(event)
        self.more.set()

    async def events_from(self, number: int) -> AsyncIterator[bytes]:
        """The events from ``number`` to the last, as they are added."""
        assert self.events is not None
        while True:
            self.more.clear()
            for event in self.events[number:]:
                number += 1
                yield event
                if event.startswith(_LAST):
                    return
            await self.more.wait()


class ResponseStore:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._stored: dict[str, Stored] = {}

    def check(self, *, background: bool, store: bool) -> None:
        """Raises ``ApiError`` if the background mode is not available."""
        if background and not store:
            raise ApiError("background can only be used when `store` is true", param="background")
        if background and not self.enabled:
            raise ApiError(_NO_STORE, param="background", kind="invalid_request_error")

    def keep(self, response_id: str, stored: Stored) -> None:
        if self.enabled:
            self._stored[response_id] = stored

    def get(self, response_id: str) -> Stored:
        """Raises ``ApiError``."""
        found = self._stored.get(response_id)
        if found is None:
            message = f"Response with id '{response_id}' not found."
            raise ApiError(message, param="response_id", status=404, kind="invalid_request_error")
        return found

    def run(self, stored: Stored, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beyond the end of the call."""
        stored.task = asyncio.get_running_loop().create_task(work)

    def cancel(self, response_id: str) -> dict[str, Any]:
        """Raises ``ApiError``."""
        stored = self.get(response_id)
        if stored.document["status"] not in ("queued", "in_progress"):
            message = "Cannot cancel a synchronous response."
            raise ApiError(message, param="response_id", kind="invalid_request_error")
        stored.document["status"] = "cancelled"
        if stored.task is not None:
            stored.task.cancel()
        return stored.document
