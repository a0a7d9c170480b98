"""``reload``: have the gateway read its configuration again."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def reload(as_json: Json = False, no_color: NoColor = False) -> None:
    """Take over the configuration without dropping requests."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    outcome = control.reload(Paths.resolve())
    parts = {"added": outcome.added, "removed": outcome.removed, "changed": outcome.changed}
    if as_json:
        terminal.say_json({"schema": 1, **parts})
        return
    said = [f"{word} {', '.join(names)}" for word, names in parts.items() if names]
    terminal.say(f"reloaded: {'; '.join(said) or 'no instance changed'}")
