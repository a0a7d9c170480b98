"""``cluster``: its commands by name."""

from __future__ import annotations

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor

_HERE = "sage_inference.cli.cluster"


class ClusterGroup(LazyGroup):
    lazy = {
        "up": Lazy(f"{_HERE}.up", "Start the engines of a file, and wait until they serve."),
        "status": Lazy(f"{_HERE}.status", "Show the models that Ray runs, and their machines."),
        "scale": Lazy(f"{_HERE}.scale", "Change the number of a model's engines."),
        "down": Lazy(f"{_HERE}.down", "End engines, of all models or of some."),
    }


app = plain_app(ClusterGroup, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def cluster(no_color: NoColor = False) -> None:
    """Run engines on the machines of a Ray cluster.

    Ray chooses the machines, and starts engines again that end. A gateway finds them with start --cluster URL, or with
    sources in its configuration. sage docs cluster describes all of it.

    \b
    Examples:
      sage inference cluster up models.yaml
      sage inference cluster status --head http://gpu1:8265
      sage inference cluster scale qwen2.5-7b-instruct 6
      sage inference cluster down
    """
