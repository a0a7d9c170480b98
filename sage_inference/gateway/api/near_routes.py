"""The route that an unknown path was probably meant for, so that a 404 can name it.

Callers mostly get the base of the address wrong: without ``/v1``, with it twice, with a slash too many, or behind a
prefix of another server. Each such path is looked up by the words that it shares with the route. No two paths are
compared letter by letter: that would cost the event loop a time that the sender chooses.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 200  # characters of a path that is looked up
_MOST_WORDS = 8  # in it
_VERSIONS = frozenset({"v1", "v2"})

_Key = tuple[str, ...]


class NearRoutes:
    """Looks up the routes of ``paths``. One that ends with a parameter, as ``/v1/models/{id}``, keeps its value."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._routes: dict[_Key, list[str]] = {}
        self._prefixes: dict[_Key, str] = {}
        for path in paths:
            fixed, parameter, _ = path.partition("{")
            key = _key(fixed)
            if not key:
                continue
            if not parameter:
                self._routes.setdefault(key, []).append(path)
            elif "{" not in path[len(fixed) + 1 :] and path.endswith("}"):
                self._prefixes.setdefault(key, fixed)

    def near(self, path: str) -> str | None:
        """The route that ``path`` looks like; None where it looks like none."""
        if len(path) > _LONGEST:
            return None
        words = [word for word in path.split("/") if word]
        if len(words) > _MOST_WORDS:
            return None
        key = tuple(map(_word, words))
        for begin in range(len(key)):
            if found := self._routes.get(_without_versions(key[begin:])):
                return next((route for route in found if route.lower() in path.lower()), found[0])
        return self._with_parameter(words, key)

    def _with_parameter(self, words: list[str], key: _Key) -> str | None:
        for end in range(1, len(words)):
            for begin in range(end):
                prefix = self._prefixes.get(_without_versions(key[begin:end]))
                if prefix is not None:
                    return prefix + "/".join(words[end:])
        return None


def _key(path: str) -> _Key:
    return _without_versions(tuple(_word(word) for word in path.split("/") if word))


def _word(word: str) -> str:
    """A word without its case, and without the plural that is easily forgotten."""
    return word.lower().removesuffix("s")


def _without_versions(key: _Key) -> _Key:
    return tuple(word for word in key if word not in _VERSIONS)
