"""``reload``: have the gateway read its configuration again."""

from __future__ import annotations

from dataclasses import asdict

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def reload(as_json: Json = False, no_color: NoColor = False) -> None:
    """Apply the configuration without dropping requests."""
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    outcome = control.reload(Paths.resolve())
    if as_json:
        terminal.say_json({"schema": 1, **asdict(outcome)})
        return
    parts = {
        "added": outcome.added,
        "removed": outcome.removed,
        "changed": outcome.changed,
        "settings": outcome.settings,
    }
    said = [f"{word} {', '.join(names)}" for word, names in parts.items() if names]
    terminal.say(f"reloaded: {'; '.join(said) or 'nothing to apply'}")
    if outcome.needs_restart:
        takes = "takes" if len(outcome.needs_restart) == 1 else "take"
        late = f"{', '.join(outcome.needs_restart)} {takes} effect only at a restart"
        terminal.warn(f"{late}; until then the gateway stays at {outcome.address}", "sage inference restart")
