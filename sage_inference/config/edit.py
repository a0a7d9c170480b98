"""Changes the configuration file. Comments and order stay, and the file is complete at every moment."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_inference.config import tree, yaml_splice
from sage_inference.config.build import Builder
from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.load import parse, read_text
from sage_inference.config.scalars import plain
from sage_inference.config.schema import Place, join, locate, shape_at, stands_alone
from sage_inference.config.secrets import Secret
from sage_inference.config.spelled import steps_in
from sage_inference.config.values import check_value, from_word
from sage_inference.config.writing import give_to_owner_of, write

# The longest wait for another process that has the file. A change takes milliseconds.
_PATIENCE_S = 10.0


def set_value(path: Path, key: str, text: str) -> None:
    """Set ``key`` (dotted) to ``text``, which is read as the key's type, or as YAML for lists, maps and sections.

    If the key, the value or the result is not valid, raises ``ConfigError`` and leaves the file as it was.
    """
    place = locate(key)
    value = _scalar(place, text) if place.shape.is_scalar else _collection(place, text)
    change(path, lambda before: _put(before, place, value, str(path)))


def unset_value(path: Path, key: str) -> bool:
    """Remove ``key`` from the file. False if it was not there. Raises ``ConfigError``."""
    removed = False

    def drop(before: str) -> str:
        nonlocal removed
        try:
            steps = locate(key).steps
        except ConfigError:
            # A mistyped key in the file must be one that can be removed.
            found = steps_in(tree.read(before, str(path)), key.strip()) if key.strip() else None
            if found is None:
                raise
            steps = found
        after = yaml_splice.cut(before, steps, str(path))
        removed = after is not None
        return before if after is None else after

    change(path, drop)
    return removed


def write_new(path: Path, text: str) -> None:
    """Write a new file. Raises ``ConfigError`` if it exists."""
    with _alone(path) as target:
        if os.path.lexists(target):
            raise ConfigError(
                "exists already", source=str(path), hint="sage inference config edit changes it"
            )
        write(target, text)


def replace_text(path: Path, text: str) -> None:
    """Replace the file's text by ``text`` if that is valid. Raises ``ConfigError`` otherwise."""
    parse(text, str(path))
    with _alone(path) as target:
        write(target, text)


def change(path: Path, edit: Callable[[str], str]) -> None:
    """Replace the file's text by what ``edit`` makes of it, if that is valid. Raises ``ConfigError`` otherwise."""
    with _alone(path) as target:
        before = read_text(target) or ""
        _check_root(before, str(path))
        after = edit(before)
        _validate(before, after, str(path))
        if after != before:
            write(target, after)


def _put(before: str, place: Place, value: Any, source: str) -> str:
    """``before`` with the value. An entry that is written as a single text becomes a section."""
    *owner, last = place.steps
    entry = yaml_splice.find(before, tuple(owner), source) if owner else None
    if isinstance(entry, tree.Scalar) and isinstance(entry.value, str):
        shape = shape_at(tuple(owner))
        alone = stands_alone(shape.section) if shape and shape.section else None
        if alone:
            return yaml_splice.put(before, tuple(owner), {alone.name: entry.value, last: value}, source)
    return yaml_splice.put(before, place.steps, value, source)


def _scalar(place: Place, text: str) -> Any:
    """The value of a word from a command line. Text needs no quotes there, but may have them."""
    name, stripped = join(place.steps), text.strip()
    try:
        if stripped[:1] in ("'", '"'):
            node = _read(name, stripped)
            value = check_value(place.key, place.shape, node.value if isinstance(node, tree.Scalar) else None)
        elif stripped and plain(stripped) is None:
            value = check_value(place.key, place.shape, None)
        elif place.shape.is_text and not place.key.format and stripped[:1] in ("[", "{"):
            raise Invalid("must be text, not a list or a section", "put it in quotes")
        else:
            value = from_word(place.key, place.shape, text)
    except Invalid as error:
        raise ConfigError(f"{name} {error.problem}", key=name, hint=error.hint) from None
    return value.source if isinstance(value, Secret) else value


def _collection(place: Place, text: str) -> Any:
    name = join(place.steps)
    node = _read(name, text) or tree.Scalar(None, "")
    try:
        Builder("").value(place.key, place.shape, node, place.steps)
    except ConfigError as error:
        # Line and column are dropped, because they count in the given word and not in the file.
        raise ConfigError(error.problem, key=error.key, hint=error.hint) from None
    return tree.to_data(node)


def _read(name: str, text: str) -> tree.Node | None:
    try:
        return tree.read(text, "")
    except ConfigError as error:
        raise ConfigError(f"the value of {name}: {error.problem}", key=name, hint=error.hint) from None


def _check_root(text: str, source: str) -> None:
    """Raises ``ConfigError`` for a list or a single value, because an edit would replace the file's whole content."""
    root = tree.read(text, source)
    empty = root is None or (isinstance(root, tree.Scalar) and root.value is None)
    if not empty and not isinstance(root, tree.Mapping):
        parse(text, source)


def _validate(before: str, after: str, source: str) -> None:
    """Raises ``ConfigError`` unless ``after`` is valid. Line and column are those of the present file."""
    wrong = _mistake(after, source)
    if wrong is None:
        return
    old = _mistake(before, source)
    if old is not None and old.problem == wrong.problem:
        raise old
    raise ConfigError(wrong.problem, source=source if old else "", key=wrong.key, hint=wrong.hint)


def _mistake(text: str, source: str) -> ConfigError | None:
    try:
        parse(text, source)
    except ConfigError as error:
        return error
    return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The real file behind a link, locked against our other processes."""
    descriptor = -1
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sidecar = target.with_name(f".{target.name}.lock")
        descriptor = os.open(sidecar, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_to_owner_of(target.parent, descriptor)
        _lock(descriptor, path)
        yield target
    # ValueError: a NUL in the path, or no name at its end.
    except (OSError, ValueError) as error:
        raise _not_written(path, error) from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _not_written(path: Path, error: OSError | ValueError) -> ConfigError:
    if not isinstance(error, OSError):
        return ConfigError(f"cannot be written: {error}", source=str(path))
    if error.errno == errno.EROFS:
        return ConfigError(
            "cannot be written: its file system is mounted read-only",
            source=str(path),
            hint="change the file where it comes from (a ConfigMap, the host), or mount it writable",
        )
    folder = Path(os.path.realpath(path)).parent
    other = error.filename is not None and Path(error.filename).parent == folder
    where = f" in {folder}" if other and error.errno in (errno.EACCES, errno.EPERM) else ""
    return ConfigError(f"cannot be written: {error.strerror or error}{where}", source=str(path))


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another process has been changing it for {_PATIENCE_S:.0f} s",
                    source=str(path),
                    hint="end that process, then try again",
                ) from None
            time.sleep(0.01)
