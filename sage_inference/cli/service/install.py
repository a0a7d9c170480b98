"""``service install``: write the unit and start it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, Json, NoColor
from sage_inference.cli.service.options import Force, RunAs, System, manager_of, plan_of

if TYPE_CHECKING:
    from sage_inference.daemon.service.install import Installed
    from sage_inference.daemon.service.manager import Manager
    from sage_inference.daemon.service.plan import ServicePlan

app = plain_app()
# Variables that decide which models, GPUs and servers engines and the gateway use.
_TELLING = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "LD_LIBRARY_PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "VLLM_CACHE_ROOT",
    "https_proxy",
)


@app.command(cls=PlainCommand)
def install(
    system: System = False,
    run_as: RunAs = None,
    config: ConfigFile = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not start it now.")] = False,
    force: Force = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Run the gateway as a service of systemd.

    Writes a unit that runs this very program, starts it now, and with each login. Keys that the configuration takes
    from env:NAME go into a file that only you can read. Run it again after a change of timeouts.drain_s or a move
    of the program. With --system the gateway starts at boot, and its files are in /var/lib/sage-inference.

    \b
    Examples:
      sage inference service install
      sage inference service install --no-start
      sudo sage inference service install --system --as me
    """
    from sage_inference.daemon.service.install import install as write
    from sage_inference.daemon.service.state import describe

    plan = plan_of(system, config, run_as)
    manager = manager_of(plan, "install")
    with terminal.WaitIndicator("waiting for the service"):
        done = write(plan, manager, os.environ, force=force, start=not no_start)
    document = describe(plan, manager)
    if as_json:
        terminal.say_json({"schema": 1, **document})
    else:
        _show(plan, done, document)
    _remark(plan, manager, done, document)


def _show(plan: ServicePlan, done: Installed, document: dict[str, Any]) -> None:
    if done.wrote_unit:
        terminal.say(f"wrote {plan.unit_file}")
    else:
        terminal.say(f"{plan.unit_file} is up to date")
    if done.wrote_environment:
        terminal.say(f"wrote {plan.environment_file}, for keys that the configuration takes from env:NAME")
    if not done.active:
        terminal.say("not started; it starts with the next " + ("boot" if document["system"] else "login"))
        return
    pid = f" (pid {document['pid']})" if document["pid"] else ""
    terminal.say(f"the service {'runs now' if done.started else 'runs already'}{pid}", style="green")


def _remark(plan: ServicePlan, manager: Manager, done: Installed, document: dict[str, Any]) -> None:
    from sage_inference.daemon.service.plan import service_environ

    left_out = [name for name in os.environ if name in _TELLING or name.startswith("SAGE_INFERENCE_")]
    left_out = [name for name in left_out if name not in ("SAGE_INFERENCE_HOME", "SAGE_INFERENCE_DEBUG")]
    left_out = sorted(set(left_out) - service_environ(plan, manager.variables()).keys())
    if left_out:
        terminal.warn(
            f"the service does not have this shell's {', '.join(left_out)}",
            f"write NAME=value into {plan.environment_file}, and restart the service",
        )
    if document["drop_ins"]:
        terminal.talk(f"drop-ins change the unit: {', '.join(document['drop_ins'])}")
    if plan.which == "--user" and not done.confined:
        terminal.warn(
            "this system lets users make no user namespaces, so the unit drops no capabilities",
            "sudo sage inference service install --system has all protection",
        )
    if document["linger"] is False:
        terminal.warn(
            "the service ends when you log out", "loginctl enable-linger keeps it, and starts it at boot"
        )
    if plan.which == "--system":
        _explain_system(plan)


def _explain_system(plan: ServicePlan) -> None:
    home = plan.paths.state_dir.parent
    terminal.talk(
        f"configuration, state and logs are in {home}: "
        f"sudo SAGE_INFERENCE_HOME={home} sage inference status shows it, and config edit changes it"
    )
    terminal.talk("sudo sage inference doctor --system checks it")
    terminal.talk("engines that it starts end with it, unless its user has a manager that lingers")
