"""``config schema``: the JSON schema of the file."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def schema(no_color: NoColor = False) -> None:
    """Print the JSON schema of the file."""
    from sage_inference.config.document import json_schema

    terminal.say_json(json_schema(), indent=2)
