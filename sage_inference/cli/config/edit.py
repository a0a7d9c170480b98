"""``config edit``: open the file in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
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

    Opens $VISUAL or $EDITOR on a copy, which takes the file's place once it is valid.
    """
    from sage_inference.config.document import commented_file
    from sage_inference.config.edit import replace_text
    from sage_inference.config.errors import ConfigError
    from sage_inference.config.paths import Paths

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    path = Paths.resolve(as_path(file)).config_file
    descriptor, name = tempfile.mkstemp(prefix="sage-", suffix=".yaml")
    copy = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(path.read_text(encoding="utf-8") if path.exists() else commented_file())
    before = copy.read_bytes()
    try:
        status = subprocess.call([*shlex.split(editor), name])  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:
        copy.unlink()
        raise Failure(f"editor {editor!r} cannot be run: {error}", "set VISUAL or EDITOR") from None
    if status != 0:
        copy.unlink()
        raise Failure(f"the editor ended with status {status}; nothing was changed")
    after = copy.read_bytes()
    if after == before and path.exists():
        copy.unlink()
        terminal.talk(f"{path}: not changed")
        return
    try:
        replace_text(path, after.decode("utf-8", "replace"))
    except ConfigError as error:
        raise Failure(f"{error}", f"the file is as it was; your text is in {name}", "config") from None
    copy.unlink()
    terminal.talk(f"{path}: saved")
