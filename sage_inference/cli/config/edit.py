"""``config edit``: open the file in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from sage_inference.cli import terminal
from sage_inference.cli.errors import Failure
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def edit(file: ConfigFile = None, no_color: NoColor = False) -> None:
    """Edit the file; a broken one is not kept.

    Opens $VISUAL or $EDITOR on a copy. A valid copy replaces the file.
    """
    from sage_inference.config.document import commented_file
    from sage_inference.config.paths import Paths

    editor = _editor()
    path = Paths.resolve(as_path(file)).config_file
    before = path.read_bytes() if path.exists() else commented_file().encode()
    descriptor, name = tempfile.mkstemp(prefix="sage-", suffix=".yaml")
    with os.fdopen(descriptor, "wb") as out:
        out.write(before)
    copy = Path(name)
    try:
        _open(editor, name)
        unchanged = path.exists() and copy.read_bytes() == before
    except (Failure, OSError):
        copy.unlink(missing_ok=True)
        raise
    if not unchanged:
        _take_over(copy, path)
    copy.unlink()
    terminal.talk(f"{path}: {'not changed' if unchanged else 'saved'}")


def _editor() -> str:
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not chosen and not sys.stdin.isatty():
        raise Failure("there is no terminal for an editor", "set VISUAL or EDITOR, or use config set")
    return chosen or "vi"


def _open(editor: str, name: str) -> None:
    try:
        status = subprocess.call([*shlex.split(editor), name])  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f'editor "{editor}" cannot be run: {reason}', "set VISUAL or EDITOR") from None
    if status != 0:
        raise Failure(f"the editor ended with status {status}; nothing was changed")


def _take_over(copy: Path, path: Path) -> None:
    from sage_inference.config.edit import replace_text
    from sage_inference.config.errors import ConfigError
    from sage_inference.config.load import read_text

    try:
        replace_text(path, read_text(copy) or "")
    except ConfigError as error:
        raise Failure(f"{error}", f"the file is as it was; your text is in {copy}", "config") from None
