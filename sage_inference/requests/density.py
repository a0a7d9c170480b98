"""An estimate of the cost of decoding a large body, so that a body that would block the event loop is refused.

msgspec reads 4 GB of text a second, but only 150 MB of brackets or field names. The body is decoded in one piece,
because a part of it cannot be: 64 MB of text take 20 ms, 64 MB of empty lists 300 ms.
"""

from __future__ import annotations

import random

from sage_inference.requests.rejection import Reason, Rejection

LARGE = 8 << 20  # bytes; smaller bodies take at most 60 ms, whatever they contain
_MOST = 4_000_000  # marks, of which each takes 5 to 15 ns
_WINDOWS, _WINDOW = 64, 1024
_ORDINARY = bytes(set(range(256)) - set(b'[]{},:"\\'))


def check_density(body: bytes) -> None:
    """Raises ``Rejection`` for a body above ``LARGE`` of very many values, escapes or blanks."""
    size = len(body)
    marks = 0
    for _ in range(_WINDOWS):  # at random, because the sender must not know the places
        at = random.randrange(size - _WINDOW)
        window = body[at : at + _WINDOW]
        # A field's name is compared with those that are looked for, so its colon counts three times.
        marks += len(window.translate(None, _ORDINARY)) + 2 * window.count(b":")
        marks += len(window) - len(window.replace(b"    ", b"")) >> 2
    estimate = marks * size // (_WINDOWS * _WINDOW)
    if estimate > _MOST:
        message = (
            f"the body of {size} bytes is made of too many values: about {estimate} brackets, commas, quotes and "
            f"the like, at most {_MOST}; split it into several requests"
        )
        raise Rejection(Reason.BAD_REQUEST, message)
