"""``config``: its commands by name; alone it shows the effective configuration."""

from __future__ import annotations

import typer

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import ConfigFile, Format, Json, NoColor

_HERE = "sage_inference.cli.config"
_LOOK, _CHANGE, _FILE = "Look", "Change", "The file"


class ConfigGroup(LazyGroup):
    lazy = {
        "show": Lazy(f"{_HERE}.show", "Show the effective configuration.", _LOOK),
        "get": Lazy(f"{_HERE}.get", "Print the value of one key.", _LOOK),
        "set": Lazy(f"{_HERE}.set", "Set a key in the file.", _CHANGE),
        "unset": Lazy(f"{_HERE}.unset", "Remove a key from the file; its default applies again.", _CHANGE),
        "edit": Lazy(f"{_HERE}.edit", "Edit the file; a broken one is not kept.", _CHANGE),
        "path": Lazy(f"{_HERE}.path", "Print where the file is.", _FILE),
        "validate": Lazy(f"{_HERE}.validate", "Check the file and what it refers to.", _FILE),
        "init": Lazy(f"{_HERE}.init", "Write a commented file to start from.", _FILE),
        "schema": Lazy(f"{_HERE}.schema", "Print the JSON schema of the file.", _FILE),
    }


app = plain_app(ConfigGroup, invoke_without_command=True, epilog=EPILOG)


@app.callback()
def config(
    context: typer.Context,
    file: ConfigFile = None,
    output: Format = "table",
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show and change the configuration.

    Without a command it shows the effective configuration: file and environment override the defaults.

    \b
    Examples:
      sage inference config
      sage inference config set --key llm_model --value qwen2.5-7b
      sage inference config set scheduling.policy round_robin
      sage inference config show --defaults
    """
    if context.invoked_subcommand is not None:
        if file is not None or output != "table" or as_json:
            from sage_inference.cli.errors import usage

            raise usage(
                "options follow the command: config show --output json, not config --output json show"
            )
        return
    from sage_inference.cli.config.show import show_effective

    show_effective(file, "json" if as_json else output)
