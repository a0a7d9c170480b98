"""Changing the configuration file: comments and order stay, and no instant leaves a broken file."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.load import parse, read_text
from sage_inference.config.schema import Place, Step, join, locate
from sage_inference.config.secrets import Secret
from sage_inference.config.values import from_word


def set_value(path: Path, key: str, text: str) -> None:
    """Set ``key`` (dotted) to ``text``, read as the key's type; lists and maps as YAML.

    Raises ``ConfigError`` and leaves the file as it was, if the key, the value or the file is not valid.
    """
    place = locate(key)
    value = _value(place, text)
    _change(path, lambda root: _put(root, place.steps, value, key))


def unset_value(path: Path, key: str) -> bool:
    """Remove ``key`` from the file; False if it was not there."""
    place = locate(key)
    removed = False

    def drop(root: Any) -> None:
        nonlocal removed
        holder = _walk(root, place.steps[:-1])
        last = place.steps[-1]
        if isinstance(holder, dict) and last in holder:
            removed = True
            del holder[last]
        elif isinstance(holder, list) and isinstance(last, int) and last < len(holder):
            removed = True
            del holder[last]

    _change(path, drop)
    return removed


def write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet. Raises ``ConfigError`` when it is."""
    with _alone(path) as target:
        if target.exists():
            raise ConfigError(
                "is there already", source=str(path), hint="sage inference config edit changes it"
            )
        _write(target, text)


def replace_text(path: Path, text: str) -> None:
    """Put a whole new text in the file's place, if it is valid. Raises ``ConfigError``."""
    parse(text, str(path))
    with _alone(path) as target:
        _write(target, text)


def _value(place: Place, text: str) -> Any:
    if not place.shape.is_scalar:
        try:
            return YAML(typ="rt").load(text)
        except YAMLError:
            raise ConfigError(
                f"the value of {join(place.steps)} is not YAML", key=join(place.steps)
            ) from None
    if place.shape.optional and text.strip() in ("null", "~"):
        return None
    try:
        value = from_word(place.key, place.shape, text)
    except Invalid as error:
        name = join(place.steps)
        raise ConfigError(f"{name} {error.problem}", key=name, hint=error.hint) from None
    return value.source if isinstance(value, Secret) else value


def _change(path: Path, change: Callable[[Any], None]) -> None:
    with _alone(path) as target:
        before = read_text(target) or ""
        parse(before, str(path))  # a broken file is reported with its place, and not overwritten
        yaml = YAML(typ="rt")
        yaml.preserve_quotes = True
        yaml.width = 10_000
        yaml.indent(mapping=2, sequence=4, offset=2)
        root = yaml.load(before)
        bare = root is None
        if bare:
            root = CommentedMap()
        change(root)
        out = io.StringIO()
        if root or not bare:
            yaml.dump(root, out)
        after = (before.rstrip("\n") + "\n" if bare and before.strip() else "") + out.getvalue()
        parse(after, str(path))
        if after != before:
            _write(target, after)


def _walk(root: Any, steps: tuple[Step, ...]) -> Any:
    for step in steps:
        try:
            root = root[step]
        except (KeyError, IndexError, TypeError):
            return None
    return root


def _put(root: Any, steps: tuple[Step, ...], value: Any, key: str) -> None:
    """Set the value, making the sections and entries on the way."""
    here = root
    for at, step in enumerate(steps):
        last = at == len(steps) - 1
        if isinstance(step, int):
            if step > len(here):
                raise ConfigError(
                    f"{join(steps[:at])} has {len(here)} entries", key=key, hint=f"the next is [{len(here)}]"
                )
            if step == len(here):
                here.append(None)
        if last:
            here[step] = value
            return
        if (here.get(step) if isinstance(here, dict) else here[step]) is None:
            here[step] = CommentedSeq() if isinstance(steps[at + 1], int) else CommentedMap()
        if isinstance(here[step], str):  # an entry written as its one text alone
            raise ConfigError(f"{join(steps[: at + 1])} is a single text here", key=key, hint="config edit")
        here = here[step]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The real file behind a link, with no other editor of ours at work on it."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", source=str(path)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield target
    finally:
        os.close(descriptor)


def _write(target: Path, text: str) -> None:
    """All or nothing: a temporary file beside it, on disk before it takes the name."""
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)  # noqa: PTH105 - a name, not a Path, is what mkstemp gives
        temporary = None
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", source=str(target)) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
