"""``admin-header``: the header with which curl and scripts open ``/admin``."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def admin_header(no_color: NoColor = False) -> None:
    """Print the header that opens /admin to curl.

    The header holds the token of this run. Only the gateway's user can read the token, and a restart
    replaces it. Pipe the header: on a command line other users could read it.

    \b
    Examples:
      sage inference admin-header | curl -H @- http://127.0.0.1:8000/admin/status
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import control

    terminal.say(f"Authorization: Bearer {control.running(Paths.resolve()).admin_token}")
