"""One simple tokenizer for all simulated engines: pieces of words, and ids that encode their own text.

An id is its piece's UTF-8 read as a number. So any simulator can turn any other's ids back into text without a
vocabulary. Ids 0 to 3 are special, because a real text has no such characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

BEGIN, END, START, ANSWER = "\x00", "\x01", "\x02", "\x03"
CLS, SEP = END, START  # what encoders put around a text
MAX_PIECE_CHARS = 18  # beyond this many characters per token, an engine refuses a text before it tokenizes it

_PIECE = re.compile(r" ?[A-Za-z0-9_]{1,5}| ?[^\sA-Za-z0-9_]|\s")
_SPECIAL_IDS = frozenset(range(4))


def pieces(text: str) -> list[str]:
    """The tokens of ``text``. Joined, they are ``text`` again."""
    return _PIECE.findall(text)


def id_of(piece: str) -> int:
    return int.from_bytes(piece.encode("utf-8", "surrogatepass"), "big")


def piece_of(token_id: int) -> str:
    if token_id <= 0:
        return ""
    return token_id.to_bytes((token_id.bit_length() + 7) // 8, "big").decode("utf-8", "replace")


def ids(parts: Iterable[str]) -> list[int]:
    return [id_of(part) for part in parts]


def text_of(token_ids: Sequence[int]) -> str:
    """The text of ``token_ids``, without the special ones."""
    return "".join(piece_of(one) for one in token_ids if one not in _SPECIAL_IDS)


def chat_prompt(contents: Iterable[str]) -> str:
    """The prompt of a conversation: four special tokens around a single message, and two more per further one."""
    inner = "".join(f"{START}{content}{END}" for content in contents)
    return f"{BEGIN}{inner}{ANSWER}"
