"""The entries of ``api_keys`` in the configuration file: read, added, taken out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_inference.config import yaml_splice
from sage_inference.config.check import check_reach
from sage_inference.config.document import plain
from sage_inference.config.edit import change
from sage_inference.config.errors import ConfigError
from sage_inference.config.key_hash import ID_DIGITS, hash_of, id_of
from sage_inference.config.load import parse
from sage_inference.config.secrets import SecretError
from sage_inference.config.settings import NAMELESS, ApiKeySettings

_ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
_NAME = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9@_.+-]{0,63}")
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One entry. ``id`` is the begin of its key's hash, None if the key cannot be read here.

    ``source`` is ``hash``, the place of the key, or ``literal``.
    """

    name: str
    id: str | None
    source: str
    settings: ApiKeySettings


def new_key() -> str:
    """A key that nobody can guess."""
    return f"sk-sage-{secrets.token_urlsafe(_KEY_BYTES)}"


def check_key_name(name: str) -> None:
    """Raises ``ConfigError`` for a name that is no good one for a new key."""
    if name == NAMELESS or _ID.fullmatch(name) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot be the name of a key",
            hint=f"1 to 64 letters, digits and @ _ . + -, but not {NAMELESS}, and not {ID_DIGITS} digits of a hash",
        )


def entries_of(keys: Sequence[ApiKeySettings]) -> list[KeyEntry]:
    return [KeyEntry(key.name, _id(key), _source(key), key) for key in keys]


def add_entry(
    path: Path, name: str, key_hash: str, values: Mapping[str, Any], *, again: bool = False
) -> bool:
    """Append an entry to the file, and return whether it is the first one.

    ``again``: beside the entry that has the name, with its settings. Raises ``ConfigError``, and then leaves the file
    as it was.
    """
    check_key_name(name)
    is_first = False

    def append(before: str) -> str:
        nonlocal is_first
        keys = parse(before, str(path)).api_keys
        is_first = not keys
        twin = next((key for key in keys if key.name == name), None)
        if (twin is not None) != again:
            raise _taken_or_missing(name, is_taken=twin is not None)
        more = values if twin is None else _settings_of(twin)
        entry = {"name": name, "key_hash": key_hash, **more}
        return yaml_splice.put(before, ("api_keys", len(keys)), entry, str(path))

    change(path, append)
    return is_first


def remove_entries(
    path: Path, which: Sequence[str], *, all_of_name: bool, leaves_open: bool
) -> list[KeyEntry]:
    """Take the entries with these names or ids out of the file, and return them. Raises ``ConfigError``.

    ``all_of_name``: whether a name stands for several entries. ``leaves_open``: whether the last key may go.
    """
    removed: list[KeyEntry] = []

    def cut(before: str) -> str:
        found = entries_of(parse(before, str(path)).api_keys)
        chosen = sorted({at for word in which for at in _chosen(found, word, all_of_name)}, reverse=True)
        if len(chosen) == len(found) and not leaves_open:
            raise ConfigError(
                "no key would be left, and the gateway would be open to every caller",
                hint="add another key first, or --open if that is what you want",
            )
        removed[:] = [found[at] for at in reversed(chosen)]
        for at in chosen:
            before = yaml_splice.cut(before, ("api_keys", at), str(path)) or before
        check_reach(parse(before, str(path)))
        return before

    change(path, cut)
    return removed


def _chosen(entries: Sequence[KeyEntry], word: str, all_of_name: bool) -> list[int]:
    by_id = [at for at, entry in enumerate(entries) if entry.id == word.lower()]
    by_name = [at for at, entry in enumerate(entries) if entry.name == word]
    if by_id or len(by_name) == 1 or (by_name and all_of_name):
        return by_id or by_name
    if by_name:
        ids = ", ".join(entries[at].id or "?" for at in by_name)
        raise ConfigError(
            f"{len(by_name)} keys have the name {word[:80]!r}: {ids}",
            hint="name one by its id, or --all for all of them",
        )
    known = ", ".join(dict.fromkeys(entry.name for entry in entries)) or "no key at all"
    raise ConfigError(f"no key has the name or id {word[:80]!r}", hint=f"the configuration has {known}")


def _taken_or_missing(name: str, *, is_taken: bool) -> ConfigError:
    if is_taken:
        hint = "choose another name; --again adds a second key of this one, with its limits, to replace the first"
        return ConfigError(f"there is a key with the name {name}", hint=hint)
    return ConfigError(f"there is no key with the name {name} yet", hint="leave --again out")


def _settings_of(key: ApiKeySettings) -> dict[str, Any]:
    """The settings of an entry beside its key and name, as YAML."""
    found: dict[str, Any] = plain(key)
    usual: dict[str, Any] = plain(ApiKeySettings())
    limits = {name: value for name, value in found.pop("limits").items() if value not in (None, [])}
    more = {name: found[name] for name in ("priority", "weight") if found[name] != usual[name]}
    return more | ({"limits": limits} if limits else {})


def _id(key: ApiKeySettings) -> str | None:
    if key.key_hash is not None:
        return id_of(key.key_hash)
    try:
        return id_of(hash_of(key.key.reveal())) if key.key else None
    except SecretError:
        return None


def _source(key: ApiKeySettings) -> str:
    if key.key is None:
        return "hash"
    return "literal" if key.key.is_literal else key.key.source
