"""``config path``: where the file is."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def path(file: ConfigFile = None, no_color: NoColor = False) -> None:
    """Print where the file is."""
    from sage_inference.config.paths import Paths

    terminal.say(str(Paths.resolve(as_path(file)).config_file))
