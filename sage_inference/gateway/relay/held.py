"""A request that waits for an engine that is not there yet, instead of being refused: see ``gateway.managed``."""

from __future__ import annotations

import math

from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.managed import loading_stream
from sage_inference.gateway.managed.waiting_room import DYING_S
from sage_inference.gateway.relay.answering import Answering
from sage_inference.gateway.relay.phase import Phase
from sage_inference.requests.rejection import Rejection

DOUBT_S = 1.0  # until an engine that failed a request is found to have ended


class Held(Answering):
    """The part of an exchange that runs only where no instance serves its model."""

    __slots__ = ()

    def submit(self) -> None:
        raise NotImplementedError

    def broke(self, error: Exception) -> None:
        raise NotImplementedError

    def _queue_again(self) -> None:
        raise NotImplementedError

    def _abandon(self) -> None:
        raise NotImplementedError

    def turn_away(self, error: ApiError) -> None:
        """Answer with ``error``, if the request waits or its body is still on its way. Otherwise its answer goes on."""
        if self.phase not in (Phase.READING, Phase.QUEUED) or self._began:
            return
        try:
            self._abandon()
            self.fail(error)
        except Exception as another:
            self.broke(another)

    def fail_or_wait(self, error: ApiError, *, failed: bool = False, doubt_s: float = DOUBT_S) -> None:
        """Fail, unless a managed engine will serve the request. ``failed``: an engine failed it, and it may be repeated.

        If an engine seems to serve after ``doubt_s``, the failure was the request's own.
        """
        refused = self.gateway.waiting_room.takes(self, error, failed=failed, doubt_s=doubt_s)
        if refused is not None:
            self.fail(refused)

    def wait_for_successor(self) -> None:
        """The engine reported its end, and the gateway starts it again."""
        died = errors.no_healthy_instance(self.request.model, f"instance {self._at} reports that it ends")
        self.fail_or_wait(died, failed=True, doubt_s=DYING_S)

    def hold(self, seconds: float) -> None:
        """Wait for an engine, at most so long."""
        if self.phase is Phase.READING:
            self._move(Phase.QUEUED)
        elif self.phase is not Phase.QUEUED:
            self._queue_again()
        if self.waited_ms < 0:
            self.waited_ms = 0.0
        self._arm(seconds)

    def submit_again(self) -> None:
        """An engine is there now."""
        try:
            self.tried = ()
            self.submit()
            if self.phase is Phase.QUEUED:
                self._arm(self.gateway.timeouts.queue_s)
        except Rejection as refusal:
            self.fail(errors.from_refusal(refusal))
        except Exception as error:
            self.broke(error)

    # A stream whose head was sent before any engine was asked

    @property
    def begun(self) -> bool:
        """Whether the caller has the head of a stream already."""
        return self.waited_ms == math.inf

    def begin_stream(self) -> None:
        self.waited_ms = math.inf
        self.chunked = True

    def fail(self, error: ApiError) -> None:
        if not self.begun:
            super().fail(error)
            return
        self.status, self.length, self.keep_alive = error.status, None, False
        self.caller.write(loading_stream.last_event(self, error))
        self._move(Phase.DONE)
