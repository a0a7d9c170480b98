"""Options of the ``service`` commands, and the objects that they lead to."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sage_inference.cli.errors import usage
from sage_inference.cli.options import as_path
from sage_inference.cli.unit import program

if TYPE_CHECKING:
    from sage_inference.daemon.service.manager import Manager
    from sage_inference.daemon.service.plan import ServicePlan

System = Annotated[
    bool, typer.Option("--system", help="The service of the whole system, which only root may change.")
]
RunAs = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="USER", help="The user that a system service runs as, instead of one of its own."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Also if the unit was edited by hand.")]


def plan_of(system: bool, config: str | None = None, user: str | None = None) -> ServicePlan:
    from sage_inference.daemon.service import plan

    if user is not None and not system:
        raise usage("--as is for a system service", "give --system too")
    command = program(sys.argv[0])
    return plan.plan("--system" if system else "--user", command, as_path(config), user)


def manager_of(plan: ServicePlan, deed: str | None) -> Manager:
    """``deed``: the command that changes the service; None for a question, which needs no root."""
    from sage_inference.daemon.service.manager import Manager
    from sage_inference.daemon.service.plan import needs_root

    manager = Manager(plan.which, os.environ)
    if plan.which == "--system" and deed is not None:
        refusal = needs_root(plan.command, deed)
        if refusal is not None:
            raise refusal
    return manager
