"""``unit``: the systemd user unit that runs the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path

app = plain_app()
# A user manager does not have the variables of a shell, and these decide which files the gateway uses.
_FILES = ("SAGE_INFERENCE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


@app.command(cls=PlainCommand)
def unit(config: ConfigFile = None, no_color: NoColor = False) -> None:
    """Print a systemd user unit that runs the gateway.

    The unit runs this very program with this configuration. Print it again after a change of timeouts.drain_s.

    \b
    Examples:
      sage inference unit > ~/.config/systemd/user/sage-inference.service
      systemctl --user daemon-reload
      systemctl --user enable --now sage-inference
    """
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import systemd

    paths = Paths.resolve(as_path(config))
    settings = load(paths.config_file, required=config is not None)
    text = systemd.unit(
        program(sys.argv[0]),
        () if config is None else ("--config", str(Path(config).absolute())),
        environ={name: str(Path(os.environ[name]).absolute()) for name in _FILES if os.environ.get(name)},
        drain_s=settings.timeouts.drain_s,
    )
    terminal.say_made(text.rstrip("\n"))


def program(called: str) -> Sequence[str]:
    """The command that runs this program again, from any directory."""
    path = Path(called).absolute()
    if path.name.startswith("sage") and path.is_file() and os.access(path, os.X_OK):
        return [str(path)]
    from sage_inference.interpreter import command

    return command("sage_inference")
