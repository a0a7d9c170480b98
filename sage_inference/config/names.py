"""Names within dotted paths, such as a model's. Like paths, they may contain dots, quotes and brackets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sage_inference.config.errors import ConfigError, nearest

# A name in quotes, with or without brackets around it. A quote within is written twice. A dot, a [ or the end follows.
_QUOTED = re.compile(
    r"""(?P<open>\[)?(?P<quote>["'])(?P<name>(?:(?!(?P=quote)).|(?P=quote){2})*)(?P=quote)(?(open)\])(?=[.\[]|$)""",
    re.DOTALL,
)
_BRACKETED = re.compile(r"""\[(?P<name>[^\]"'][^\]]*)\](?=[.\[]|$)""")
_DOT = re.compile(r"(?<!^)\.")

# The keys of an entry. Each has a mapping of its own keys.
Keys = Mapping[str, "Keys"]


def split_name(path: str, known: Keys) -> tuple[str, str]:
    """The name of an entry at the beginning of ``path``, and the rest of the path within the entry.

    ``known`` are the keys of such an entry, empty if it is a single value. Without quotes the name ends before the first
    dot that a known key follows. Raises ``ConfigError`` if the end of the name looks like a misspelled key, which would
    otherwise silently become a part of the name.
    """
    found = _QUOTED.match(path) or _BRACKETED.match(path)
    if found:
        name, mark = found["name"], found.groupdict().get("quote")
        return name.replace(mark * 2, mark) if mark else name, path[found.end() :].removeprefix(".")
    if path[0] in "\"'[":
        raise ConfigError(
            f"{path[:80]}: what begins with {path[0]} is a name up to {']' if path[0] == '[' else path[0]} and a dot",
            hint="""put a name that holds quotes or brackets in quotes: 'aliases."[a]"'""",
        )
    for dot in _DOT.finditer(path):
        if first_key(path[dot.end() :]) in known:
            name, rest = path[: dot.start()], path[dot.end() :]
            break
    else:
        name, rest = path, ""
    meant = _corrected(name, rest, known)
    if meant is not None:
        raise Misspelled(name, meant, f"{quoted(name)}{'.' if rest else ''}{rest}")
    return name, rest


class Misspelled(ConfigError):
    """The end of a name resembles a key. ``meant`` is the path with that key, ``literal`` the path with the whole name."""

    def __init__(self, name: str, meant: str, literal: str) -> None:
        super().__init__(f"{name} ends in what may be a misspelled key")
        self.name = name
        self.meant = meant
        self.literal = literal


def first_key(path: str) -> str:
    """The first step of a path that does not begin with a name."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def written(name: str, known: Keys) -> str:
    """The name as a step of a path, in quotes if it could be read differently without."""
    try:
        plain = name == name.strip() and split_name(name, known) == (name, "")
    except (ConfigError, IndexError):
        plain = False
    return name if plain else quoted(name)


def quoted(name: str) -> str:
    mark = "'" if '"' in name else '"'
    return mark + name.replace(mark, mark * 2) + mark


def _corrected(name: str, rest: str, known: Keys) -> str | None:
    """The path if the last steps of ``name`` are misspelled keys before ``rest``. None if they are not."""
    *before, last = _DOT.split(name)
    if not before:
        return None
    if rest:
        fitting = [key for key, inner in known.items() if first_key(rest) in inner]
        near = nearest(last, fitting)
        return f"{'.'.join(before)}.{near}.{rest}" if near else None
    near = nearest(last, known)
    if near is None:
        return None
    return _corrected(".".join(before), near, known) or f"{'.'.join(before)}.{near}"
