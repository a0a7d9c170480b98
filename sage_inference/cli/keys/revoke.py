"""``keys revoke``: take keys out."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import key_names
from sage_inference.cli.keys.applied import applied, explain
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def revoke(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="NAME|ID...", help="As keys list shows them.", autocompletion=key_names),
    ],
    all_: Annotated[bool, typer.Option("--all", help="All keys of a name.")] = False,
    leaves_open: Annotated[
        bool, typer.Option("--open", help="Even the last key: every caller has access then.")
    ] = False,
    file: ConfigFile = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Take keys out; a running gateway refuses them at once.

    Their requests that wait are ended. Answers that an engine was asked for go on to their end.

    \b
    Examples:
      sage inference keys revoke ada
      sage inference keys revoke 3f5a9c01
    """
    from sage_inference.config.key_entries import remove_entries
    from sage_inference.config.paths import Paths

    paths = Paths.resolve(as_path(file))
    path = paths.config_file
    removed = remove_entries(path, keys, all_of_name=all_, leaves_open=leaves_open)
    outcome = applied(paths, path)
    still = [outcome.has(entry.id) for entry in removed]
    is_done = None if None in still else not any(still) and outcome.failure is None
    if as_json:
        gone = [{"name": entry.name, "id": entry.id} for entry in removed]
        terminal.say_json({"schema": 1, "revoked": gone, "config_path": str(path), "applied": is_done})
    else:
        for entry in removed:
            terminal.say(f"revoked {entry.name}" + (f" ({entry.id})" if entry.id else ""))
    explain(outcome, "refuses it" if len(removed) == 1 else "refuses them", is_done=is_done)
