"""The route that an unknown path was probably meant for, so that a 404 can name it.

Most wrong paths come from a wrong base address: without ``/v1``, with it twice, with an extra slash, or with a prefix
of another server. Such a path is looked up by the words that it shares with the route. Paths are not compared letter
by letter, because the sender could choose how long that takes on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 200  # characters of a path that is looked up
_MOST_WORDS = 8  # in it
_VERSIONS = frozenset({"v1", "v2"})

_Key = tuple[str, ...]


class NearRoutes:
    """Looks up the routes of ``paths``. A route may end with a parameter, as ``/v1/models/{id}``: its value is kept."""

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
        """The route that ``path`` looks like; None if it looks like none of them."""
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
    """A word in lower case, without the ending of a plural."""
    return word.lower().removesuffix("s")


def _without_versions(key: _Key) -> _Key:
    return tuple(word for word in key if word not in _VERSIONS)
