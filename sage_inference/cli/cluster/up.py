"""``cluster up``: start the engines of a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.cluster.options import HEAD, PYTHON, Head, Python, Token, dashboard_of
from sage_inference.cli.errors import Failure
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

if TYPE_CHECKING:
    from sage_inference.cli.cluster.applications import ServedModel, ServeView
    from sage_inference.cli.cluster.dashboard import Dashboard
    from sage_inference.config.cluster_file import ClusterSettings

app = plain_app()
# Serve shows the old version of a model until it has built the new one.
_SETTLED_S = 2.0


@app.command(cls=PlainCommand)
def up(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The models: sage docs cluster shows its form.")
    ],
    head: Head = HEAD,
    token: Token = None,
    python: Python = PYTHON,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when Ray has taken the order.")] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Start the engines of a file, and wait until they serve.

    Ray needs sage-inference in its Python on each machine: pip install "sage-inference[ray]". Models of an earlier
    file that this one lacks go on; cluster down NAME ends them. A changed model is replaced, one engine at a time.

    The command ends with 1 as soon as an engine cannot start, or no machine has room for it. Ray goes on trying.

    \b
    Examples:
      sage inference cluster up models.yaml
      sage inference cluster up models.yaml --head http://gpu1:8265
    """
    from sage_inference.cli.cluster.applications import look
    from sage_inference.cli.cluster.jobs import run_job
    from sage_inference.cli.cluster.table import answer, show
    from sage_inference.config.cluster_file import load_cluster, packed

    settings = load_cluster(Path(file))
    sent = packed(settings, file)
    dashboard = dashboard_of(head, token)
    with terminal.WaitIndicator(f"asking {dashboard.url}"):
        before = look(dashboard, settings.application)
    with terminal.WaitIndicator("a job on Ray's head deploys the models"):
        run_job(dashboard, python, ["up", sent])
    wanted = [settings.application_of(model) for model in settings.models]
    view = look(dashboard, settings.application) if no_wait else _until_up(dashboard, settings, wanted)
    _remark(view, before, wanted)
    if as_json:
        terminal.say_json(answer(dashboard, settings.application, view))
    else:
        show(view)


def _until_up(dashboard: Dashboard, settings: ClusterSettings, wanted: Sequence[str]) -> ServeView:
    """Wait until all are up. Raises ``Failure`` with what is missing. Ctrl-C leaves them to Ray."""
    from sage_inference.cli.cluster.applications import look
    from sage_inference.cli.cluster.jobs import patiently

    began = time.monotonic()
    with terminal.WaitIndicator("waiting for the engines") as waiting:

        def looked() -> ServeView:
            view = look(dashboard, settings.application)
            ours = [model for model in view.models if model.application in wanted]
            waiting.update(f"waiting for {_progress(ours) or 'Serve'}")
            if time.monotonic() - began > _SETTLED_S:
                for model in ours:
                    if model.problem is not None and not model.is_up:
                        raise Failure(model.problem, "sage inference cluster status shows all", "not_up")
            return view

        def is_over(view: ServeView) -> bool:
            ours = [model for model in view.models if model.application in wanted]
            settled = time.monotonic() - began > _SETTLED_S
            return settled and len(ours) == len(wanted) and all(model.is_up for model in ours)

        view: ServeView = patiently(looked, is_over)
    _check_ports([model for model in view.models if model.application in wanted])
    return view


def _progress(models: Sequence[ServedModel]) -> str:
    return ", ".join(
        f"{model.name} ({model.running} of {model.wanted})" for model in models if not model.is_up
    )


def _check_ports(models: Sequence[ServedModel]) -> None:
    from sage_inference.config.ray_names import DIRECT_INGRESS, HA_PROXY

    hidden = [model.name for model in models if model.running and not model.has_ports]
    if hidden:
        raise Failure(
            f"{', '.join(hidden)} runs, and no gateway finds it: Ray shows no ports of its replicas",
            f"start Ray on each machine with {DIRECT_INGRESS}=1, and without {HA_PROXY}",
            "no_ports",
        )


def _remark(view: ServeView, before: ServeView, wanted: Sequence[str]) -> None:
    others = [model.name for model in view.models if model.application not in wanted]
    if others:
        terminal.talk(f"not in the file, and still there: {', '.join(others)}; cluster down NAME ends it")
    if before.host is not None and before.host.startswith(("127.", "localhost", "::1")):
        terminal.warn(
            f"Serve was started before, and listens on {before.host}: gateways of other machines find no engine",
            "serve shutdown -y on the head, and cluster up again",
        )
