"""Settings from the environment: ``SAGE_INFERENCE_SERVER__PORT`` is ``server.port``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sage_inference.config.errors import ConfigError, Invalid, nearest, quote
from sage_inference.config.schema import Key, is_of_entry, walk
from sage_inference.config.settings import Settings
from sage_inference.config.values import from_word

PREFIX = "SAGE_INFERENCE_"
# These are read elsewhere: the place of the files, and whether an unexpected error shows its traceback.
RESERVED = frozenset({"SAGE_INFERENCE_HOME", "SAGE_INFERENCE_DEBUG"})

# Kubernetes and Docker name variables after a service or a linked container, and "sage-inference" is the
# likely name of this one. The pattern matches the rest of a name after the prefix.
_LINK = re.compile(
    r"(.+_)?SERVICE_(HOST|PORT(_.+)?)|(.+_)?PORT_[0-9]+_(TCP|UDP|SCTP)(_(START|END|ADDR|PORT|PROTO))*|(.+_)?ENV_.+"
)
_LINK_WITH_VALUE = (
    (re.compile(r"(.+_)?PORT"), re.compile(r"(tcp|udp|sctp)://.*", re.DOTALL)),
    (re.compile(r"(.+_)?NAME"), re.compile(r"/.*", re.DOTALL)),
)


def variables() -> dict[str, tuple[str, Key]]:
    """The variables that are read. Each has the path of its key, and the key."""
    return {
        PREFIX + path.replace(".", "__").upper(): (path, key)
        for path, key in walk()
        if key.shape.is_scalar and not is_of_entry(path)
    }


def apply(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """``settings``, overridden by those of the environment. An empty variable sets nothing.

    Raises ``ConfigError`` for a value that its key does not take, and for a key that no variable can set,
    because a gateway must not run without ``api_keys`` that its user believes to be set.
    ``unknown_variables`` reports other unknown names.
    """
    given = _given(environ)
    if not given:
        return settings
    known = variables()
    for name, text in sorted(given.items()):
        if name in known and text.strip():
            path, key = known[name]
            settings = put(settings, path, _value(name, key, text))
        elif name not in known and name in _compound():
            raise ConfigError(
                f"unknown variable {name}",
                source="environment",
                key=name,
                hint="only single values can be set here; set it in the configuration file",
            )
    return settings


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables with our prefix that set nothing. Each has its escaped name and the likely remedy."""
    known = variables()
    return [
        (quote(name).strip('"'), _meant(name, known))
        for name, text in sorted(_given(environ).items())
        if name not in known and not _is_link(name.removeprefix(PREFIX), text)
    ]


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environ.items() if name.startswith(PREFIX) and name not in RESERVED}


def _is_link(name: str, text: str) -> bool:
    """Whether Kubernetes or Docker made the variable for the address of a service or container."""
    if _LINK.fullmatch(name):
        return True
    return any(names.fullmatch(name) and values.fullmatch(text) for names, values in _LINK_WITH_VALUE)


def put(settings: Any, path: str, value: Any) -> Any:
    """A copy of a section with the value at a dotted path replaced."""
    name, _, rest = path.partition(".")
    return replace(settings, **{name: put(getattr(settings, name), rest, value) if rest else value})


def _value(name: str, key: Key, text: str) -> Any:
    try:
        return from_word(key, key.shape, text)
    except Invalid as error:
        raise ConfigError(
            f"{name} {error.problem}", source="environment", key=name, hint=error.hint
        ) from None


def _compound() -> set[str]:
    """The names of lists, maps and sections, which have no variable."""
    return {PREFIX + path.upper() for path, key in walk() if "." not in path and not key.shape.is_scalar}


def _meant(name: str, known: Mapping[str, Any]) -> str:
    # Names are compared without the prefix, which would make any two of them similar.
    name = name.removeprefix(PREFIX)
    paths = [other.removeprefix(PREFIX) for other in known]
    tail = [path for path in paths if name and path.endswith(f"__{name}")]
    near = tail[0] if tail else nearest(name, paths)
    return f"did you mean {PREFIX}{near}?" if near else "SAGE_INFERENCE_SECTION__KEY sets section.key"
