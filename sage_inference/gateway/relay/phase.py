"""The phases of a relayed request, and the moves between them.

    READING ─body complete─▶ QUEUED ─placed─▶ CONNECTING ─▶ SENT ─first byte let through─▶ DELIVERING ─end─▶ DONE
                               ▲                 │ refused    │ closed, 502/503/429             │ closed, silence
                               └───── retry ─────┴────────────┘                                 └─▶ CUT

Phases that take no time are passed over. A request that is placed at once is never QUEUED. One that gets an idle
connection is never CONNECTING. An answer that comes in one piece moves its request from SENT to DONE.

Any phase but the last three may also end in CANCELLED (the caller left), or in DONE by an answer of our own
(a rejection, 502, 504). The request has the slot of an instance in CONNECTING, SENT and DELIVERING. The slot is given
back in one place: on leaving these phases for QUEUED or for a final phase.
"""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    READING = 0
    QUEUED = 1
    CONNECTING = 2
    SENT = 3
    DELIVERING = 4
    DONE = 5
    CUT = 6
    CANCELLED = 7


_P = Phase
_MOVES: dict[Phase, set[Phase]] = {
    _P.READING: {_P.QUEUED, _P.CONNECTING, _P.SENT, _P.DONE, _P.CANCELLED},
    _P.QUEUED: {_P.CONNECTING, _P.SENT, _P.DONE, _P.CANCELLED},
    _P.CONNECTING: {_P.SENT, _P.QUEUED, _P.DONE, _P.CANCELLED},
    # SENT back to CONNECTING: a stale keep-alive connection is replaced by a fresh one to the same instance.
    _P.SENT: {_P.DELIVERING, _P.CONNECTING, _P.QUEUED, _P.DONE, _P.CANCELLED},
    _P.DELIVERING: {_P.DONE, _P.CUT, _P.CANCELLED},
}

_FINAL = {_P.DONE, _P.CUT, _P.CANCELLED}
_WITH_SLOT = {_P.CONNECTING, _P.SENT, _P.DELIVERING}

# The effects of a move, 0 for a move that is not allowed. They are plain numbers in tuples, because hashing an enum
# member and combining flags are Python calls.
STAYS, ENDS, RELEASES = 1, 2, 4


def _effect(at: Phase, to: Phase) -> int:
    if to not in _MOVES.get(at, ()):
        return 0
    releases = at in _WITH_SLOT and to not in _WITH_SLOT
    return (ENDS if to in _FINAL else 0) | (RELEASES if releases else 0) or STAYS


EFFECTS = tuple(tuple(_effect(at, to) for to in Phase) for at in Phase)
FINAL = tuple(phase in _FINAL for phase in Phase)
# The outcome of an attempt, by the phase that its request moved to.
_OUTCOMES = {_P.DONE: "done", _P.CUT: "cut", _P.CANCELLED: "cancelled", _P.QUEUED: "retried"}
OUTCOMES = tuple(_OUTCOMES.get(phase, "ended") for phase in Phase)
