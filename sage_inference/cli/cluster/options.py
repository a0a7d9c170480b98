"""The options that all commands of ``cluster`` share."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli.cluster.dashboard import Dashboard
from sage_inference.cli.errors import usage
from sage_inference.cli.options import SERVER
from sage_inference.config.ray_names import APPLICATION

HEAD = "http://127.0.0.1:8265"
Head = Annotated[
    str,
    typer.Option("--head", metavar="URL", help="Dashboard of the Ray cluster.", rich_help_panel=SERVER),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Token that the dashboard asks for; env:NAME, file:PATH or itself.",
        rich_help_panel=SERVER,
    ),
]
Application = Annotated[
    str,
    typer.Option(
        "--application",
        metavar="NAME",
        help="The application of the file, if it names one.",
        rich_help_panel=SERVER,
    ),
]
Python = Annotated[
    str,
    typer.Option(
        "--python",
        metavar="PATH",
        help="Python on Ray's head that has sage-inference.",
        rich_help_panel=SERVER,
    ),
]
PYTHON = "python3"


def dashboard_of(head: str, token: str | None) -> Dashboard:
    """The dashboard of the options. Raises ``Failure`` for an address or a token that cannot be used."""
    from sage_inference.cli.options import warn_of_literal_key
    from sage_inference.config.address import check_dashboard
    from sage_inference.config.errors import Invalid
    from sage_inference.config.secrets import Secret, fits_header

    try:
        check_dashboard(head)
    except Invalid as error:
        raise usage(f"--head {error.problem}", error.hint) from None
    warn_of_literal_key(token)
    secret = None if token is None else Secret(token).reveal()
    if secret is not None and not fits_header(secret):
        raise usage("--token holds characters that are not allowed in a header")
    return Dashboard(head.rstrip("/"), secret)


def check_application(name: str) -> str:
    """Raises ``Failure`` unless ``name`` can begin the names of applications."""
    from sage_inference.config.errors import Invalid
    from sage_inference.config.formats import check_engine_name

    try:
        check_engine_name(name)
    except Invalid as error:
        raise usage(f"--application {error.problem}") from None
    return name


__all__ = [
    "APPLICATION",
    "HEAD",
    "PYTHON",
    "Application",
    "Head",
    "Python",
    "Token",
    "check_application",
    "dashboard_of",
]
