"""``config set``: change one key in the file."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import config_keys, config_values
from sage_inference.cli.config.keys import key_of_usage
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()
_FORM = "config set KEY VALUE; config set KEY -- VALUE for a value that begins with -"


@app.command("set", cls=PlainCommand)
def set_(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="Dotted, as scheduling.policy.", autocompletion=config_keys),
    ] = None,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="As in YAML.", autocompletion=config_values)
    ] = None,
    key_option: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="The key.", autocompletion=config_keys)
    ] = None,
    value_option: Annotated[
        str | None, typer.Option("--value", metavar="VALUE", help="The value.", autocompletion=config_values)
    ] = None,
    file: ConfigFile = None,
    no_color: NoColor = False,
) -> None:
    """Set a key in the file.

    Comments and order stay. A value that the key does not take is refused. sage inference reload applies it.

    \b
    Examples:
      sage inference config set llm_model qwen2.5-7b
      sage inference config set --key scheduling.policy --value round_robin
      sage inference config set instances '[{url: "http://127.0.0.1:8001"}]'
    """
    words = [word for word in (key, value) if word is not None]
    name = key_option if key_option is not None else words.pop(0) if words else None
    text = value_option if value_option is not None else words.pop(0) if words else None
    if name is None or text is None:
        raise usage("a key and a value are needed", _FORM)
    if words:
        raise usage(f'"{words[0]}" is one word too many', _FORM)
    from sage_inference.config.edit import set_value
    from sage_inference.config.paths import Paths
    from sage_inference.config.schema import locate

    path = Paths.resolve(as_path(file)).config_file
    with key_of_usage(name):
        locate(name)
    set_value(path, name, text)
    terminal.talk(f"{path}: {name} set")
