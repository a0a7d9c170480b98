"""``service uninstall``: stop the service and remove its unit."""

from __future__ import annotations

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import Json, NoColor
from sage_inference.cli.service.options import Force, System, manager_of, plan_of

app = plain_app()


@app.command(cls=PlainCommand)
def uninstall(
    system: System = False, force: Force = False, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Stop the service and remove its unit.

    Running requests are finished first, and its engines end with it. Configuration, state and logs stay, and so do
    files that others wrote: drop-ins, and the file of variables if it has any.
    """
    from sage_inference.daemon.service.install import uninstall as remove

    plan = plan_of(system, user="root" if system else None)
    manager = manager_of(plan, "uninstall")
    with terminal.WaitIndicator("waiting for the service to end"):
        done = remove(plan, manager, force=force)
    if as_json:
        removed = done.result == "removed"
        terminal.say_json(
            {"schema": 1, "removed": removed, "unit_path": str(plan.unit_file), "kept": list(done.kept)}
        )
        return
    if done.result == "missing":
        terminal.say("the service is not installed")
        return
    terminal.say(f"stopped, and removed {plan.unit_file}")
    for path in done.kept:
        terminal.say(f"kept {path}")
