"""``config init``: write a commented file."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def init(file: ConfigFile = None, no_color: NoColor = False) -> None:
    """Write a commented file to start from.

    An existing file is never overwritten.
    """
    from sage_inference.config.document import commented_file
    from sage_inference.config.edit import write_new
    from sage_inference.config.paths import Paths

    path = Paths.resolve(as_path(file)).config_file
    write_new(path, commented_file())
    terminal.say(str(path))
