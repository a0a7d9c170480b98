"""``service``: the gateway as a service of systemd."""

from __future__ import annotations

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor

_HERE = "sage_inference.cli.service"


class ServiceGroup(LazyGroup):
    lazy = {
        "install": Lazy(f"{_HERE}.install", "Run the gateway as a service of systemd."),
        "uninstall": Lazy(f"{_HERE}.uninstall", "Stop the service and remove its unit."),
        "status": Lazy(f"{_HERE}.status", "Show the service as systemd sees it."),
    }


app = plain_app(ServiceGroup, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def service(no_color: NoColor = False) -> None:
    """Run the gateway as a service of systemd.

    \b
    Examples:
      sage inference service install
      sage inference service status
      systemctl --user restart sage-inference
      sudo sage inference service install --system
    """
