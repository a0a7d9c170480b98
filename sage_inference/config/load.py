"""The settings in a YAML file and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_inference.config import environment, tree
from sage_inference.config.build import Builder
from sage_inference.config.errors import ConfigError
from sage_inference.config.schema import Step
from sage_inference.config.settings import InstanceSettings, Settings

# A thousand times a long configuration. A larger file is no configuration, or an endless device.
_LARGEST_FILE = 1 << 20


def load(path: Path, environ: Mapping[str, str] | None = None, *, required: bool = False) -> Settings:
    """The settings of the file at ``path``, overridden by those of the environment, with defaults for the rest.

    A missing file sets nothing, unless it is ``required``. Raises ``ConfigError``.
    """
    text = read_text(path)
    if text is None:
        if required:
            raise ConfigError(
                "there is no such file", source=str(path), hint="sage inference config init writes one"
            )
        text = ""
    return environment.apply(parse(text, str(path)), os.environ if environ is None else environ)


def parse(text: str, source: str) -> Settings:
    """The settings in ``text``. ``source`` is its name in errors. Raises ``ConfigError``."""
    root = tree.read(text, source)
    if root is None or (isinstance(root, tree.Scalar) and root.value is None):
        return Settings()
    return Builder(source).section(Settings, root)


def parse_instance(data: Any, source: str = "") -> InstanceSettings:
    """An entry of ``instances`` from decoded JSON. Raises ``ConfigError``."""
    steps: tuple[Step, ...] = ("instance",)
    return Builder(source).section(InstanceSettings, tree.from_data(data, source), steps)


def instances_in(text: str, source: str, most: int) -> tuple[list[InstanceSettings], list[ConfigError]]:
    """The entries of a list of ``instances``, and the mistakes of those that are left out.

    The list stands alone, or under the key ``instances``. Raises ``ConfigError`` if ``text`` is no such list, or has
    more than ``most`` entries.
    """
    root = tree.read(text, source)
    if isinstance(root, tree.Mapping):
        for name, _ in root.entries:
            if name.text != "instances":
                problem = f"unknown key {name.text[:60]!a}"
                raise tree.error_at(source, name.start, problem, "the file holds a list of instances alone")
        root = root.entries[0][1] if root.entries else None
    if root is None or (isinstance(root, tree.Scalar) and root.value is None):
        return [], []
    if not isinstance(root, tree.Sequence):
        hint = "begin each entry with a dash"
        raise tree.error_at(source, root.start, "the file must hold a list of instances", hint)
    if len(root.items) > most:
        raise ConfigError(f"has {len(root.items):,} entries, more than {most:,}", source=source)
    entries, mistakes = [], []
    for at, item in enumerate(root.items):
        try:
            entries.append(Builder(source).section(InstanceSettings, item, ("instances", at)))
        except ConfigError as error:
            mistakes.append(error)
    return entries, mistakes


def read_text(path: Path) -> str | None:
    """The content of the file, or None if there is no file. Raises ``ConfigError`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return None
    # ValueError: a NUL in the path.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read: {reason}", source=str(path)) from None
    if len(raw) > _LARGEST_FILE:
        raise ConfigError("is larger than 1 MiB, which no configuration is", source=str(path))
    return text_of(raw, str(path))


def text_of(raw: bytes, source: str) -> str:
    """The text of a file. Raises ``ConfigError`` with the place of the first byte that is no text."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        raise ConfigError(
            "not UTF-8 text",
            source=source,
            line=before.count(b"\n") + 1,
            column=column,
            hint="save it as UTF-8",
        ) from None
