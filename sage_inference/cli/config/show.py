"""``config show``: the effective configuration, or every key with its default."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sage_inference.cli import remarks, terminal
from sage_inference.cli.complete import FORMATS
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Format, Json, NoColor, as_path, check_choice

app = plain_app()


@app.command(cls=PlainCommand)
def show(
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Every key with its default and help.")
    ] = False,
    file: ConfigFile = None,
    output: Format = "table",
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show the effective configuration.

    Secrets are masked. --defaults lists every key with its default, its values and its purpose.
    """
    if defaults:
        show_defaults("json" if as_json else output)
    else:
        show_effective(file, "json" if as_json else output)


def show_effective(file: str | None, output: str) -> None:
    from sage_inference.config.document import masked
    from sage_inference.config.effective import effective
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths

    check_choice("format", output, FORMATS)
    paths = Paths.resolve(as_path(file))
    settings = load(paths.config_file, required=file is not None)
    remarks.warn_of(settings)
    if output == "table":
        from sage_inference.cli import table

        found = [(row.key, _word(row.value), _word(row.default)) for row in effective(settings)]
        terminal.say_made(table.render(("KEY", "VALUE", "DEFAULT"), found, width=table.width_of_terminal()))
    else:
        _document({"config_path": str(paths.config_file), "config": masked(settings)}, output)


def show_defaults(output: str) -> None:
    from dataclasses import asdict

    from sage_inference.config.document import rows

    check_choice("format", output, FORMATS)
    if output == "table":
        from sage_inference.cli import table

        found = [(row.key, row.type, _word(row.default), _help(row)) for row in rows()]
        terminal.say_made(
            table.render(("KEY", "TAKES", "DEFAULT", "HELP"), found, width=table.width_of_terminal())
        )
    else:
        keys = [{k: v for k, v in asdict(row).items() if k != "value"} for row in rows()]
        _document({"keys": keys}, output)


def _help(row: Any) -> str:
    return f"{row.doc} One of {', '.join(row.choices)}." if row.choices else str(row.doc)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else terminal.json_text(value)


def _document(document: dict[str, Any], output: str) -> None:
    if output == "json":
        terminal.say_json({"schema": 1, **document})
        return
    terminal.say_made(_yaml(document.get("config", document)))


def _yaml(document: Any) -> str:
    """YAML as people read it; YAML's escapes if it has characters that steer a terminal."""
    import yaml

    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip()
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=False).rstrip()
