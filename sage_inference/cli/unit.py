"""``unit``: the systemd unit that runs the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def unit(
    config: ConfigFile = None,
    system: Annotated[bool, typer.Option("--system", help="A unit for the system's manager.")] = False,
    no_color: NoColor = False,
) -> None:
    """Print a systemd user unit that runs the gateway.

    The unit runs this very program with this configuration. The command service install writes it, starts it, and
    leaves out what this system cannot enforce.

    \b
    Examples:
      sage inference unit
      sage inference unit --system
    """
    from sage_inference.daemon.service.plan import plan, settings_of
    from sage_inference.daemon.service.unit_file import marked

    found = plan("--system" if system else "--user", program(sys.argv[0]), as_path(config))
    settings = settings_of(found)
    text = found.text(settings.timeouts.drain_s, confined=True, port=settings.server.port)
    terminal.say_made(marked(text).rstrip("\n"))


def program(called: str) -> Sequence[str]:
    """The command that runs this program again, from any directory."""
    path = Path(called).absolute()
    if path.name.startswith("sage") and path.is_file() and os.access(path, os.X_OK):
        return [str(path)]
    from sage_inference.interpreter import command

    return command("sage_inference")
