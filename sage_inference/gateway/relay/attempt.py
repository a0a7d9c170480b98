"""One try of a request at one engine, and the rules of trying again.

    CONNECTING ─▶ SENT ─▶ ANSWERING ─▶ OVER

An attempt is made when an instance has a slot for its owner. The owner is a caller's exchange or an embedding call.
It writes the message, and the connection reports to it. The attempt has the rules that hold for both owners.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import msgspec

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.submission import Waiting
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.lack import LackError
from sage_inference.engines.pool import Connecting, reason_of
from sage_inference.engines.receiver import Broken, Receiver
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.types import ExecutionInstance
from sage_inference.wire.message import ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream

# Statuses of engines and proxies that refused a request: too busy, or nothing there to serve it.
REFUSED_STATUSES = frozenset({429, 502, 503})


class AttemptState(Enum):
    """How far an attempt is. It is derived from what the attempt holds, so the two cannot differ."""

    CONNECTING = auto()
    SENT = auto()
    ANSWERING = auto()  # the head of the answer is here
    OVER = auto()


class AttemptOwner(Receiver, Protocol):
    """The sender of the message. ``place`` is the scheduler's, and stands for the slot of the instance.

    ``length`` is that of the answer's body, if the answer's head gives it.
    """

    attempt: Attempt
    place: Waiting | Placement | None
    length: int | None

    def connected(self, connection: EngineConnection) -> None:
        """The connection was made: write the message on it."""

    def not_connected(self, error: OSError) -> None: ...


class Attempt(msgspec.Struct, gc=False):
    """A struct, because one is made for every request: its constructor runs in C. A store into it is slow, though.

    It has no reference to its owner. The two would be a cycle, and only the garbage collector would free them.
    """

    upstream: Upstream
    instance: ExecutionInstance
    connection: EngineConnection | None = None
    connecting: Connecting | None = None
    fresh: bool = False  # whether the connection was made for this attempt
    sent_at: float = 0.0  # the gateway's clock
    answer: ResponseHead | None = None

    @property
    def state(self) -> AttemptState:
        if self.connection is not None:
            return AttemptState.SENT if self.answer is None else AttemptState.ANSWERING
        return AttemptState.OVER if self.connecting is None else AttemptState.CONNECTING

    @property
    def at(self) -> str:
        """The name of the instance."""
        return self.instance.instance_id

    def connect(self, owner: AttemptOwner) -> None:
        """Open a connection. ``owner`` gets it later, or the reason why there is none."""
        self.fresh = True
        # A stale connection may have brought a head before it closed.
        self.connection = self.answer = None
        self.connecting = self.upstream.pool.connect(owner.connected, owner.not_connected, owner.broke)

    def sent(self, connection: EngineConnection, now: float) -> None:
        """The message was written to ``connection``. ``now`` is a time of the gateway's clock."""
        self.connecting, self.connection, self.sent_at = None, connection, now

    def transfer_to(self, owner: AttemptOwner, former: AttemptOwner) -> None:
        """Give the attempt to another owner: with its slot, its connection, and the rest of its answer."""
        # The former owner must have no way left to close the connection, or to give back the slot.
        owner.attempt, former.attempt = self, None  # type: ignore[assignment]
        owner.place, former.place = former.place, None
        if self.answer is not None:  # otherwise the new owner gets the head, and the length with it
            owner.length = former.length
        # A connection that is still being made would report to the former owner: such an attempt is abandoned first.
        if self.connection is not None:
            self.connection.hand_to(owner)

    def abandon(self) -> None:
        """Close the connection, or give up the one being made. The engine sees a caller that leaves."""
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        # Closed and not reused: the rest of the answer would be read as the answer to the next request.
        if self.connection is not None:
            self.connection.discard()
            self.connection = None

    # How it fails

    def disconnected(self, how: Broken, *, begun: bool) -> bool:
        """The connection was lost. Returns whether it was a stale one, which the engine had closed before the message came.

        Then the engine never saw the message. It is sent again to the same instance, on a connection made for it:
        that is neither the engine's fault nor a retry. ``begun``: whether so much of an answer came that the engine
        must have seen the message.
        """
        # Let go of the connection first: whatever its owner does next, nothing can be written to it.
        connection, self.connection = self.connection, None
        # An engine closes idle connections by a timer of its own, so only one that served before can be stale.
        reused = connection is not None and connection.served > 0 and not self.fresh
        return how is Broken.CLOSED and reused and not begun

    def failed(self, how: Broken, detail: str) -> ApiError:
        """Count the end of the connection as a failure of the engine. Returns the caller's error."""
        self.upstream.failed(how)
        return errors.upstream_unreachable(self.at, detail)

    def refusal(self, error: OSError) -> tuple[ApiError, bool]:
        """No connection was made. Returns the caller's error, and whether another engine may be tried.

        A lack of this machine's would hit the next engine as well, and no engine is to blame for it.
        """
        self.connecting = None
        if isinstance(error, LackError):
            return errors.out_of_resources(error.what), False
        return self.failed(Broken.REFUSED, f"refused the connection: {reason_of(error)}"), True

    def connect_timeout(self, seconds: float) -> tuple[ApiError, bool]:
        """The engine did not accept a connection in time. Returns what ``refusal`` returns."""
        # Asked before the attempt to connect is given up, because that forgets the reason.
        lacks = None if self.connecting is None else self.connecting.lacks
        self.abandon()
        if lacks is not None:
            return errors.out_of_resources(lacks.what), False
        self.upstream.failed(Broken.REFUSED)
        return errors.upstream_timeout(self.at, seconds), True
