"""Settings from the environment: ``SAGE_INFERENCE_SERVER__PORT`` is ``server.port``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sage_inference.config.errors import ConfigError, Invalid, meant
from sage_inference.config.schema import Key, walk
from sage_inference.config.settings import Settings
from sage_inference.config.values import from_word

PREFIX = "SAGE_INFERENCE_"
# Say where files are, not what is in them.
RESERVED = frozenset({"SAGE_INFERENCE_HOME"})


def variables() -> dict[str, tuple[str, Key]]:
    """The variables that are read: for each its key's path and the key."""
    return {
        PREFIX + path.replace(".", "__").upper(): (path, key)
        for path, key in walk()
        if key.shape.is_scalar and "[" not in path
    }


def apply(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """``settings`` with what the environment says put over them. An empty variable says nothing.

    Raises ``ConfigError`` for a name that is no key, or a value that its key does not take.
    """
    told = {name: text for name, text in environ.items() if name.startswith(PREFIX) and name not in RESERVED}
    if not told:
        return settings
    known = variables()
    for name, text in sorted(told.items()):
        if name not in known:
            raise _unknown(name, known)
        if text.strip():
            path, key = known[name]
            settings = put(settings, path, _value(name, key, text))
    return settings


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


def _unknown(name: str, known: Mapping[str, Any]) -> ConfigError:
    lists = {PREFIX + path.upper() for path, key in walk() if "." not in path and not key.shape.is_scalar}
    if name in lists:
        hint: str | None = "only single values can be set here; set it in the configuration file"
    else:
        tail = [other for other in known if other.endswith("_" + name.removeprefix(PREFIX))]
        hint = f"did you mean {tail[0]}?" if tail else meant(name, known)
    return ConfigError(
        f"unknown variable {name[:100]!a}"[:130].replace("'", ""),
        source="environment",
        key=name,
        hint=hint or "SAGE_INFERENCE_SECTION__KEY sets section.key",
    )
