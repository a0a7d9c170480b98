"""``grafana``: the dashboard, and what Prometheus needs for it."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import monitoring_files
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path, check_choice
from sage_inference.monitoring import FILES

app = plain_app()


@app.command(cls=PlainCommand)
def grafana(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]",
            help="dashboard (JSON for Grafana), alerts (rules for Prometheus) or scrape (for prometheus.yml).",
            autocompletion=monitoring_files,
        ),
    ] = "dashboard",
    config: ConfigFile = None,
    no_color: NoColor = False,
) -> None:
    """Print a dashboard for Grafana, and rules for Prometheus.

    Import the dashboard in Grafana under Dashboards, New, Import. It shows requests, waits, speed, engines, embeddings
    and GPUs. The address in scrape is that of the configuration.

    \b
    Examples:
      sage inference grafana > dashboard.json
      sage inference grafana alerts > sage-alerts.yml
      sage inference grafana scrape >> prometheus.yml
    """
    check_choice("file", what, FILES)
    if what == "dashboard":
        from sage_inference.monitoring.dashboard import dashboard

        terminal.say_json(dashboard(), indent=2)
        return
    from sage_inference.monitoring.scrape import alerts, scrape

    if what == "alerts":
        terminal.say_made(alerts().rstrip("\n"))
        return
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths

    settings = load(Paths.resolve(as_path(config)).config_file, required=config is not None)
    server = settings.server
    text = scrape(server.host, server.port, is_https=bool(server.tls_cert), needs_key=bool(settings.api_keys))
    terminal.say_made(text.rstrip("\n"))
