"""``engine``: commands for one engine that the gateway started."""

from __future__ import annotations

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor

_HERE = "sage_inference.cli.engine"


class EngineGroup(LazyGroup):
    lazy = {
        "restart": Lazy(f"{_HERE}.restart", "Stop an engine and start it again."),
    }


app = plain_app(EngineGroup, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def engine(no_color: NoColor = False) -> None:
    """Restart an engine.

    The commands load, unload, ps and logs NAME are for engines as well.

    \b
    Examples:
      sage inference engine restart bge-m3
    """
