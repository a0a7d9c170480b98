"""``sage inference``: the commands of the gateway, by name."""

from __future__ import annotations

from sage_inference.cli.exit_codes import EPILOG
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor

_HERE = "sage_inference.cli"
_RUN, _ASK, _ENGINES, _LOOK, _SET = "Run it", "Ask a model", "Its engines", "Look at it", "Set it up"


class InferenceGroup(LazyGroup):
    lazy = {
        "start": Lazy(f"{_HERE}.start", "Start the gateway.", _RUN),
        "stop": Lazy(f"{_HERE}.stop", "Stop the gateway; finish running requests first.", _RUN),
        "restart": Lazy(f"{_HERE}.restart", "Replace the running gateway by a new one.", _RUN),
        "reload": Lazy(f"{_HERE}.reload", "Apply the configuration without dropping requests.", _RUN),
        "chat": Lazy(f"{_HERE}.chat.command", "Talk to a model.", _ASK),
        "embed": Lazy(f"{_HERE}.embed", "Print the vectors of texts.", _ASK),
        "ps": Lazy(f"{_HERE}.ps", "Show the engines that the gateway started.", _ENGINES),
        "load": Lazy(f"{_HERE}.load", "Start an engine, and wait until it serves.", _ENGINES),
        "unload": Lazy(f"{_HERE}.unload", "Stop an engine and free its memory.", _ENGINES),
        "cluster": Lazy(f"{_HERE}.cluster.group", "Run engines on the machines of a Ray cluster.", _ENGINES),
        "engine": Lazy(f"{_HERE}.engine.group", "Restart an engine.", _ENGINES),
        "models": Lazy(f"{_HERE}.models", "Show the models that the gateway serves or can load.", _LOOK),
        "status": Lazy(f"{_HERE}.status", "Show whether the gateway runs, and its engines.", _LOOK),
        "top": Lazy(f"{_HERE}.top.command", "Watch engines, requests and queue live.", _LOOK),
        "ui": Lazy(f"{_HERE}.ui", "Open the gateway's page in a browser.", _LOOK),
        "logs": Lazy(f"{_HERE}.logs", "Show the gateway's log, or an engine's.", _LOOK),
        "bench": Lazy(f"{_HERE}.bench", "Measure a server under load; without a URL, the gateway.", _LOOK),
        "usage": Lazy(f"{_HERE}.usage", "Show the requests and tokens of models, keys or users.", _LOOK),
        "requests": Lazy(
            f"{_HERE}.requests", "Show the last requests: where they went, and how fast.", _LOOK
        ),
        "explain": Lazy(f"{_HERE}.explain", "Show why a request was sent where it was.", _LOOK),
        "admin-header": Lazy(f"{_HERE}.admin_header", "Print the header that opens /admin to curl.", _LOOK),
        "replay": Lazy(f"{_HERE}.replay", "Show what policies would do with recorded traffic.", _LOOK),
        "doctor": Lazy(f"{_HERE}.doctor", "Check this machine and the gateway's setup.", _SET),
        "grafana": Lazy(f"{_HERE}.grafana", "Print a dashboard for Grafana, and rules for Prometheus.", _SET),
        "unit": Lazy(f"{_HERE}.unit", "Print a systemd user unit that runs the gateway.", _SET),
        "service": Lazy(f"{_HERE}.service.group", "Run the gateway as a service of systemd.", _SET),
        "keys": Lazy(f"{_HERE}.keys.group", "Make keys for callers, and take them back.", _SET),
        "config": Lazy(f"{_HERE}.config.group", "Show and change the configuration.", _SET),
    }


app = plain_app(InferenceGroup, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def inference(no_color: NoColor = False) -> None:
    """Run the inference gateway and talk to it.

    \b
    Examples:
      sage inference start --simulate --background
      sage inference start --llm-backend http://127.0.0.1:8001
      sage inference status --json
      sage inference logs --follow
      sage inference config set llm_model qwen2.5-7b
    """
