"""``keys``: its commands by name."""

from __future__ import annotations

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor

_HERE = "sage_inference.cli.keys"


class KeysGroup(LazyGroup):
    lazy = {
        "add": Lazy(f"{_HERE}.add", "Make a key for a caller, and show it once."),
        "list": Lazy(f"{_HERE}.list", "Show the keys, their limits, and what was used today."),
        "revoke": Lazy(f"{_HERE}.revoke", "Take keys out; a running gateway refuses them at once."),
    }


app = plain_app(KeysGroup, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def keys(no_color: NoColor = False) -> None:
    """Make keys for callers, and take them back.

    They are in the configuration file, as hashes. A running gateway takes each change without a restart.

    \b
    Examples:
      sage inference keys add ada --limit requests_per_minute=600
      sage inference keys list
      sage inference keys revoke ada
    """
