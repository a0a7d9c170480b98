"""Estimates of the tokens of a prompt, from its bytes, corrected by the counts that engines report."""

from __future__ import annotations

from enum import IntEnum

BYTES_PER_TOKEN = 4.0
MEDIA_BYTES_PER_TOKEN = 512.0  # a megabyte of picture is some two thousand tokens
_KEPT = 0.98  # of the past, at each report
_START_BYTES = 8000.0  # how much the first guess weighs against reports
_SAMPLE, _LARGE, _PIECES, _PIECE = 256, 4096, 4, 128
_MEDIA_BEGINS = 1 << 20  # within so many bytes of a prompt that is mostly media
# Text that is mostly escapes has one within so many bytes. A longer search would take longer than all the rest.
_ESCAPES = 64
_SEVEN_BITS = bytes(range(128))
_IDS = b"[]0123456789, \n"
_MODELS = 512
_FIRST, _EVERY = 256, 8  # the first reports are all read, and of the later ones one in eight


class Script(IntEnum):
    """Kinds of text that differ in bytes a token."""

    ASCII = 0
    ESCAPED = 1  # \\uXXXX
    LATIN = 2  # mostly ASCII, with accents
    TWO_BYTE = 3  # Cyrillic, Greek, Arabic …
    THREE_BYTE = 4  # Chinese, Japanese, Korean …
    TOKEN_IDS = 5
    MEDIA = 6  # pictures and sound, in base64


# Plain numbers: an enum's hash is a Python call, and these are keys for every request.
_ASCII, _ESCAPED, _LATIN, _TWO_BYTE, _THREE_BYTE, _TOKEN_IDS, _MEDIA = (script.value for script in Script)


def script_of(prompt: bytes) -> int:
    """The ``Script`` of most of a prompt, as a plain number. A long prompt is judged by pieces from all over it.

    ``find`` is used instead of ``in``. In CPython 3.11 ``in`` first tries to read its left side as a number, and so raises
    and drops an exception each time.
    """
    size = len(prompt)
    if size > _LARGE:
        pieces = [prompt[at : at + _PIECE] for at in range(0, size, size // _PIECES)]
        if (
            sum([piece.find(b" ") < 0 for piece in pieces]) * 2 > _PIECES
            and prompt.find(b";base64,", 0, _MEDIA_BEGINS) >= 0
        ):
            return _MEDIA
        prompt = b"".join(pieces)
    elif size > _SAMPLE:
        prompt = prompt[(size - _SAMPLE) // 2 : (size + _SAMPLE) // 2]
    if prompt.isascii():
        if prompt.find(b"\\u", -_ESCAPES) >= 0:
            return _ESCAPED
        return _ASCII if prompt.lstrip(_IDS) else _TOKEN_IDS
    beyond = prompt.translate(None, _SEVEN_BITS)
    if len(beyond) * 4 < len(prompt):
        return _LATIN
    three = sum(0xE0 <= byte < 0xF0 for byte in beyond)
    return _THREE_BYTE if three * 4 > len(beyond) else _TWO_BYTE


class TokenEstimates:
    """Tokens a byte for each model and script, a moving ratio of sums (0.98 of the past kept a report)."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], list[float]] = {}
        self._ratios: dict[tuple[str, int], float] = {}
        self._reports = 0
        self.pass_over = 0  # reports to pass over until the next that is read

    def tokens_per_byte(self, model: str, script: int) -> float:
        return self._ratios.get((model, script)) or _first_guess(script)

    def learn(self, model: str, script: int, prompt_bytes: int, tokens: int) -> None:
        """An engine counted ``tokens`` in a prompt of so many bytes."""
        if prompt_bytes <= 0 or tokens <= 0:
            return
        self._reports += 1
        self.pass_over = 0 if self._reports < _FIRST else _EVERY
        key = (model, script)
        sums = self._sums.get(key)
        if sums is None:
            # Names of adapters come and go: start over, because ratios are soon learned.
            if len(self._sums) >= _MODELS:
                self._sums.clear()
                self._ratios.clear()
            sums = self._sums[key] = [_START_BYTES * _first_guess(script), _START_BYTES]
        sums[0] = _KEPT * sums[0] + tokens
        sums[1] = _KEPT * sums[1] + prompt_bytes
        self._ratios[key] = sums[0] / sums[1]


def _first_guess(script: int) -> float:
    return 1 / (MEDIA_BYTES_PER_TOKEN if script == _MEDIA else BYTES_PER_TOKEN)
