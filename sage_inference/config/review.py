"""Finds all mistakes of a configuration at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sage_inference.config import environment, tree
from sage_inference.config.build import Builder
from sage_inference.config.check import check
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load, read_text
from sage_inference.config.settings import Settings


def mistakes_of(
    path: Path, environ: Mapping[str, str] | None = None, *, required: bool = False
) -> list[ConfigError]:
    """The mistakes in the file at ``path`` and in the environment, in the file's order.

    Rules between keys are checked only if each key by itself is valid. Empty if a start would succeed.
    """
    environ = os.environ if environ is None else environ
    found: list[ConfigError] = []
    try:
        text = read_text(path)
        root = tree.read(text or "", str(path))
        if root is not None and not (isinstance(root, tree.Scalar) and root.value is None):
            Builder(str(path), found).section(Settings, root)
    except ConfigError as error:  # the rest cannot be read
        return [error]
    found.sort(key=lambda error: (error.line or 0, error.column or 0))
    for name, value in sorted(environ.items()):
        try:
            environment.apply(Settings(), {name: value})
        except ConfigError as error:
            found.append(error)
    if not found:
        try:
            check(load(path, environ, required=required), environ)
        except ConfigError as error:
            found.append(error)
    return found
