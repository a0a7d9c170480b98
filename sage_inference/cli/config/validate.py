"""``config validate``: check the file."""

from __future__ import annotations

from sage_inference.cli import remarks, terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path

app = plain_app()


@app.command(cls=PlainCommand)
def validate(file: ConfigFile = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Check the file and what it refers to."""
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths
    from sage_inference.config.review import mistakes_of

    path = Paths.resolve(as_path(file)).config_file
    *others, last = [None, *mistakes_of(path, required=file is not None)]
    for mistake in others[1:]:
        terminal.fail(str(mistake), None, None)
    if last is not None:
        raise last
    remarks.warn_of(load(path))
    if as_json:
        found = {"schema": 1, "valid": True, "config_path": str(path), "exists": path.exists()}
        terminal.say_json(found)
        return
    terminal.say(f"{path}: valid" if path.exists() else f"{path}: does not exist; the defaults apply")
