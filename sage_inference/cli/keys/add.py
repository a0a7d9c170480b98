"""``keys add``: make a key."""

from __future__ import annotations

import os
import stat
import sys
from typing import Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import key_limits, priorities
from sage_inference.cli.errors import Failure, usage
from sage_inference.cli.keys.applied import applied, explain
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path

app = plain_app()
_KEY = "api_keys[0]."  # stands for each entry
_LIMITS = f"{_KEY}limits."


@app.command(cls=PlainCommand)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in logs, usage and limits.")],
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT=N",
            help="requests_per_minute, tokens_per_minute, tokens_per_day or concurrent_requests.",
            autocompletion=key_limits,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model that it may use, or a pattern: 'qwen*'."),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(
            metavar="PRIORITY", help="Of its requests, and the highest they get.", autocompletion=priorities
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="A second key of the name, with the limits of the first.")
    ] = False,
    file: ConfigFile = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a key for a caller, and show it once.

    The key goes to stdout and is stored nowhere. The configuration file gets its hash, and a gateway that runs takes
    it at once. To replace a key without a gap, add a second one with --again, and revoke the first by its id.

    \b
    Examples:
      sage inference keys add ada --limit requests_per_minute=600 --limit tokens_per_day=5000000
      sage inference keys add batch --model 'qwen*' --priority low
      (umask 077; sage inference keys add ada > ada.key)
    """
    from sage_inference.config import key_entries, key_hash
    from sage_inference.config.paths import Paths

    values = _values(limit or [], model or [], priority)
    if again and values:
        raise usage(
            "--again takes the settings of the first key", "leave --limit, --model and --priority out"
        )
    _refuse_readable_output()
    paths = Paths.resolve(as_path(file))
    path = paths.config_file
    key = key_entries.new_key()
    hashed = key_hash.hash_of(key)
    is_first = key_entries.add_entry(path, name, hashed, values, again=again)
    outcome = applied(paths, path)
    key_id = key_hash.id_of(hashed)
    is_known = outcome.has(key_id)
    if as_json:
        found = {"name": name, "id": key_id, "key": key, "config_path": str(path), "applied": is_known}
        terminal.say_json({"schema": 1, **found})
    else:
        terminal.say(key)
        terminal.talk(f"{path}: key {name} ({key_id}) added; keep it, because it is shown only once")
    if is_first:
        terminal.talk("it is the first one: callers without a key are refused as soon as the gateway has it")
    explain(outcome, "takes the key", is_done=is_known)


def _values(limits: list[str], models: list[str], priority: str | None) -> dict[str, Any]:
    """The settings of the entry. Raises a usage failure for one that the schema does not take."""
    from sage_inference.config.build import Builder
    from sage_inference.config.errors import ConfigError
    from sage_inference.config.schema import locate
    from sage_inference.config.tree import Scalar

    found: dict[str, Any] = {} if priority is None else {"priority": priority}
    given = [_pair(word) for word in limits]
    if given or models:
        found["limits"] = dict(given) | ({"models": models} if models else {})
    named = [(f"{_LIMITS}{name}", value) for name, value in given]
    for key, value in [*named, *([(f"{_KEY}priority", priority)] if priority is not None else [])]:
        try:
            place = locate(key)
            Builder("").value(place.key, place.shape, Scalar(value, str(value)), place.steps[-1:])
        except ConfigError as error:
            hint = error.hint and error.hint.replace(_LIMITS, "")
            raise usage(error.problem.replace(_LIMITS, ""), hint) from None
    return found


def _pair(word: str) -> tuple[str, Any]:
    name, found, number = word.partition("=")
    if not found or not name.strip():
        raise usage(f"--limit {word[:80]!r} is no limit and its number", "as --limit requests_per_minute=600")
    digits = number.strip().replace("_", "")
    return name.strip(), int(digits) if digits.isdecimal() and len(digits) < 19 else number


def _refuse_readable_output() -> None:
    """Raises ``Failure`` if the key would go into a file that other users can read."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):  # no file at all
        return
    if stat.S_ISREG(mode) and mode & 0o044:
        raise Failure(
            "other users could read the key in the file that stdout is",
            "umask 077 before it, or chmod 600 the file; no key was made",
            "readable_output",
        )
