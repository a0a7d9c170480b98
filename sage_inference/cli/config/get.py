"""``config get``: the value of one key."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import config_keys
from sage_inference.cli.config.keys import key_of_usage
from sage_inference.cli.errors import Failure
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def get(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Dotted, as scheduling.policy.", autocompletion=config_keys)
    ],
    file: ConfigFile = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Print the value of one key.

    The value is the effective one: file and environment override the default. Secrets are masked.
    """
    from sage_inference.config.document import plain
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths
    from sage_inference.config.schema import locate

    with key_of_usage(key):
        place = locate(key)
    found: Any = load(Paths.resolve(as_path(file)).config_file, required=file is not None)
    for step in place.steps:
        try:
            found = found[step] if isinstance(step, int) or isinstance(found, dict) else getattr(found, step)
        except (KeyError, IndexError):
            raise Failure(f"{key} is not set", code="not_set") from None
    value = plain(found)
    if as_json:
        terminal.say_json({"schema": 1, "key": key, "value": value})
    else:
        terminal.say(value if isinstance(value, str) else terminal.json_text(value))
