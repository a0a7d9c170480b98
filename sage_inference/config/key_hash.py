"""The hash of a key: what the configuration stores, what a caller's key is compared by, and the id that people see.

A plain hash is enough for long random keys, because nobody can try them all.
"""

from __future__ import annotations

import hashlib

ID_DIGITS = 8  # of the hash: the id of a key among others of its name
_SCHEME = "sha256:"


def key_digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def digest_in(key_hash: str) -> bytes:
    """The digest in a hash as ``hash_of`` returns it."""
    return bytes.fromhex(key_hash.removeprefix(_SCHEME))


def hash_of(key: str) -> str:
    """As ``api_keys[].key_hash`` takes it."""
    return f"{_SCHEME}{key_digest(key).hex()}"


def id_of(key_hash: str) -> str:
    """The id of a key by its hash, as ``hash_of`` returns it."""
    return id_of_digest(digest_in(key_hash))


def id_of_digest(digest: bytes) -> str:
    return digest.hex()[:ID_DIGITS]
