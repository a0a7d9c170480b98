"""``cluster scale``: change the number of a model's engines."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.cluster.named import model_names
from sage_inference.cli.cluster.options import (
    APPLICATION,
    HEAD,
    Application,
    Head,
    Token,
    check_application,
    dashboard_of,
)
from sage_inference.cli.errors import Failure
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor

app = plain_app()


@app.command(cls=PlainCommand)
def scale(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="As cluster status shows it.", autocompletion=model_names),
    ],
    replicas: Annotated[int, typer.Argument(metavar="N", help="Engines to have.", min=0, max=1000)],
    head: Head = HEAD,
    token: Token = None,
    application: Application = APPLICATION,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Change the number of a model's engines.

    An engine that leaves gets no new requests, and ends when its requests have ended. The next cluster up sets the
    number of its file again.

    \b
    Examples:
      sage inference cluster scale qwen2.5-7b-instruct 6
      sage inference cluster scale bge-m3 0 --head http://gpu1:8265
    """
    from sage_inference.cli.cluster.applications import look
    from sage_inference.cli.cluster.dashboard import segment
    from sage_inference.cli.cluster.named import named
    from sage_inference.config.ray_names import DEPLOYMENT

    dashboard = dashboard_of(head, token)
    view = look(dashboard, check_application(application))
    [found] = named(view.models, [model], application)
    status, answer = dashboard.try_post(
        f"/api/v1/applications/{segment(found.application)}/deployments/{DEPLOYMENT}/scale",
        {"target_num_replicas": replicas},
    )
    if status != 200:
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise Failure(
            f"Ray does not scale {found.name} ({status}){f': {str(reason)[:200]}' if reason else ''}",
            "sage inference cluster up FILE deploys it so that it can be scaled" if status == 412 else None,
            "not_scaled",
        )
    if as_json:
        terminal.say_json({"schema": 1, "model": found.name, "before": found.wanted, "wanted": replicas})
    else:
        terminal.say(f"{found.name}: {replicas} instead of {found.wanted}; cluster status shows the progress")
