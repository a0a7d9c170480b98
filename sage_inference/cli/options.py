"""Options that several commands share, and the words for their values that completions know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import formats
from sage_inference.cli.errors import usage

WHERE = "Files"
OUTPUT = "Output"
SERVER = "Server"

# A str, not a Path: Typer would check the file system and word the errors itself.
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file instead of the user's own (config path shows that).",
        rich_help_panel=WHERE,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object, schema 1, instead of text.", rich_help_panel=OUTPUT)
]
# `main` reads this option from the arguments, because it must apply even if they do not parse.
NoColor = Annotated[
    bool,
    typer.Option(
        "--no-color", help="No colour, like NO_COLOR=1.", expose_value=False, rich_help_panel=OUTPUT
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="Another OpenAI-compatible server [the running gateway].",
        rich_help_panel=SERVER,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="env:NAME, file:PATH or itself [the gateway's own].",
        rich_help_panel=SERVER,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT",
        help="table, json or yaml.",
        autocompletion=formats,
        rich_help_panel=OUTPUT,
    ),
]


def as_path(text: str | None) -> Path | None:
    """The file that an option names. An empty name is wrong usage."""
    if text == "":
        raise usage("the name of the configuration file is empty")
    return None if text is None else Path(text)


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises a usage failure that names the choices. Typer's own check words it differently by version."""
    if value in choices:
        return
    from difflib import get_close_matches

    close = get_close_matches(value, choices, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise usage(f'unknown {what} "{value}"{meant}', f"one of {', '.join(choices)}")


def warn_of_literal_key(api_key: str | None) -> None:
    """Warn of a key typed literally, because the list of processes shows it."""
    from sage_inference.config.secrets import Secret

    if api_key is not None and Secret(api_key).is_literal:
        terminal.warn(
            "a key on the command line can be read by all users of this machine",
            "give env:NAME or file:PATH instead",
        )
