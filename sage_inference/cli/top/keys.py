"""Keys, from the bytes that a terminal sends."""

from __future__ import annotations

_NAMES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left",
    b"OA": "up", b"OB": "down", b"OC": "right", b"OD": "left",
    b"[H": "home", b"[F": "end", b"OH": "home", b"OF": "end",
    b"[1~": "home", b"[4~": "end", b"[7~": "home", b"[8~": "end",
    b"[5~": "page up", b"[6~": "page down", b"[Z": "back tab", b"[3~": "delete",
}  # fmt: skip
_CONTROLS = {
    0x09: "tab", 0x0A: "enter", 0x0D: "enter", 0x7F: "backspace", 0x08: "backspace",
    0x15: "clear", 0x0C: "redraw", 0x04: "end of input", 0x10: "up", 0x0E: "down",
}  # fmt: skip
_LONGEST = 32  # bytes of a sequence; more belong to none
_ESCAPE = 0x1B


class KeyReader:
    """Takes bytes in pieces of any size, and returns the keys that they complete.

    A key is a character, or a name such as ``up``. Sequences of unknown keys are dropped.
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_within(self) -> bool:
        """Whether bytes wait for more. If none come, ``flush`` reads them as they are."""
        return bool(self._rest)

    def feed(self, piece: bytes) -> list[str]:
        data, keys = self._rest + piece, []
        while data:
            length, key = _next(data)
            if not length:
                break
            if key:
                keys.append(key)
            data = data[length:]
        self._rest = data
        return keys

    def flush(self) -> list[str]:
        """The keys of bytes after which nothing came: a lone Escape."""
        rest, self._rest = self._rest, b""
        return ["escape"] if rest == b"\x1b" else []


def _next(data: bytes) -> tuple[int, str]:
    """The length of the first key, and the key. 0 if more bytes are needed, "" if the key is unknown."""
    first = data[0]
    if first == _ESCAPE:
        return _sequence(data)
    if first < 0x20 or first == 0x7F:
        return 1, _CONTROLS.get(first, "")
    length = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if len(data) < length:
        return 0, ""
    text = data[:length].decode("utf-8", "replace")
    return (length, text) if len(text) == 1 and text.isprintable() else (1, "")


def _sequence(data: bytes) -> tuple[int, str]:
    if len(data) == 1:
        return 0, ""
    if data[1:2] not in (b"[", b"O"):
        return 1, "escape"  # and then a key that was typed quickly after it
    for at in range(2, min(len(data), _LONGEST)):
        if 0x40 <= data[at] <= 0x7E:
            return at + 1, _NAMES.get(data[1 : at + 1], "")
    return (2, "") if len(data) >= _LONGEST else (0, "")
