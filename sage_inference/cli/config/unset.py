"""``config unset``: remove one key from the file."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import config_keys
from sage_inference.cli.config.keys import key_of_usage
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def unset(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="Dotted, as scheduling.policy.", autocompletion=config_keys),
    ] = None,
    key_option: Annotated[str | None, typer.Option("--key", metavar="KEY", help="The key.")] = None,
    file: ConfigFile = None,
    no_color: NoColor = False,
) -> None:
    """Remove a key from the file; its default applies again."""
    if (key is None) == (key_option is None):
        raise usage("one key is needed", "config unset KEY")
    name = key if key is not None else str(key_option)
    from sage_inference.config.edit import unset_value
    from sage_inference.config.paths import Paths

    path = Paths.resolve(as_path(file)).config_file
    with key_of_usage(name):
        removed = unset_value(path, name)
    terminal.talk(f"{path}: {name} {'removed' if removed else 'was not set'}")
