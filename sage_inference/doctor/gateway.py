"""Checks of the gateway, its port and its service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sage_inference._version import __version__
from sage_inference.daemon import bind, managed
from sage_inference.daemon.errors import BindError, PortTaken
from sage_inference.daemon.own_service import is_of_the_system, restart_command, systemctl
from sage_inference.daemon.service.hidden import refuse_hidden
from sage_inference.daemon.service.manager import Manager, ServiceError
from sage_inference.daemon.systemd import NAME
from sage_inference.doctor.facts import Facts, UnknownFactError
from sage_inference.doctor.finding import Check, Finding
from sage_inference.netloc import netloc
from sage_inference.port_holder import PortHolder, port_holder


def gateway(facts: Facts) -> Iterator[Finding]:
    error = facts.state.problem
    if error is not None:
        raise error
    state = facts.state.value
    if state.state == "running" and state.live is not None:
        version = state.live.get("version")
        if version != __version__:
            known = restart_command(state.info) if state.info else None
            yield GATEWAY.warn(
                f"version {version} runs, and {__version__} is installed",
                f"{known or 'a restart by its supervisor'} changes over",
            )
            return
        yield GATEWAY.ok(f"running at {state.live['address']} (pid {state.pid}, version {__version__})")
    elif state.state == "stopped":
        kept = [str(each["name"]) for each in managed.kept(facts.paths.state_dir)]
        if kept:
            yield GATEWAY.warn(
                f"not running, but its engines run on: {', '.join(kept)}",
                "sage inference start adopts them, and sage inference stop ends them",
            )
        else:
            yield GATEWAY.ok("not running, and nothing is left of an earlier run")
    elif state.state == "dead":
        who = f"pid {state.pid}" if state.pid else "the gateway"
        yield GATEWAY.warn(f"{who} died and left its lock or pidfile", "sage inference stop removes them")
    elif state.state in ("starting", "stopping"):
        yield GATEWAY.warn(str(state.reason), "ask again in a moment")
    elif state.state == "unresponsive":
        yield GATEWAY.fail(f"pid {state.pid} does not answer", "sage inference stop --force ends it")
    else:
        yield GATEWAY.fail(str(state.reason), "sage inference status, as that user")


def port(facts: Facts) -> Iterator[Finding]:
    state = facts.state.value
    server = facts.settings.value.server
    host, number = server.host, server.port
    if state.info is not None and state.state not in ("stopped", "dead"):
        host, number = state.info.host, state.info.port
        holder = port_holder(number, host)
        if holder is None or holder.pid in (None, state.pid):
            yield PORT.ok(f"{netloc(host, number)} is the gateway's")
        else:
            yield PORT.fail(
                f"{netloc(host, number)} is held by {holder.words}, and not by the gateway",
                holder.remedy(number),
            )
        return
    try:
        bind.check_free(host, number)
    except PortTaken:
        yield _taken(host, number)
    except BindError as error:
        yield PORT.fail(error.problem, "sage inference config set server.host HOST")
    else:
        yield PORT.ok(f"{netloc(host, number)} is free")


def _taken(host: str, number: int) -> Finding:
    at, found = netloc(host, number), port_holder(number, host)
    if _is_systems_gateway(found):
        return PORT.ok(f"{at} is the system service's; sudo sage inference doctor --system examines that")
    another = "sage inference config set server.port NUMBER takes another"
    if found is None:
        return PORT.fail(f"{at} is held by another program", another)
    return PORT.fail(f"{at} is held by {found.words}", f"{found.remedy(number)}; {another}")


def _is_systems_gateway(holder: PortHolder | None) -> bool:
    """Whether the gateway that runs as a service of the system has the port. Others than root cannot see its process."""
    if holder is None:
        return False
    if holder.pid is not None:
        return is_of_the_system(holder.pid)
    try:
        return Manager("--system").show(NAME, "ActiveState").get("ActiveState") == "active"
    except ServiceError:
        return False


def service(facts: Facts) -> Iterator[Finding]:
    error = facts.service.problem
    if error is not None:
        raise error
    found = facts.service.value
    if found.document is None:
        absent = found.absent.problem if found.absent else "there is no user manager"
        yield SERVICE.ok(f"not installed: {absent}")
    else:
        yield _hidden(facts) or _judged(found.document)


def _hidden(facts: Facts) -> Finding | None:
    """A failure if a file that the configuration names is hidden from the service."""
    if not facts.service.value.installed:
        return None
    try:
        manager = Manager(facts.plan.which, facts.environ)
        refuse_hidden(facts.plan, facts.settings.value, manager, with_program=False)
    except ServiceError as hidden:
        return SERVICE.fail(hidden.problem, hidden.hint)
    except UnknownFactError:  # the check of the configuration reports the reason
        return None
    return None


def _judged(document: Mapping[str, Any]) -> Finding:
    which = "--system" if document["system"] else "--user"
    call = systemctl(which)
    log = f"{'sudo journalctl' if document['system'] else 'journalctl --user'} -u sage-inference -n 20"
    again = f"sage inference service install{' --system' if document['system'] else ''}"
    if not document["installed"]:
        return SERVICE.ok("not installed")
    if document["active"] == "failed":
        return SERVICE.fail(f"the service failed ({document['result']})", log)
    if document["sub_state"] == "auto-restart":
        return SERVICE.fail("the service ends again and again", log)
    if document["active"] is None:
        return SERVICE.warn("systemd does not answer", f"{call} status")
    if document["active"] == "inactive":
        return SERVICE.warn("installed, and not running", f"{call} start sage-inference")
    if not document["enabled"]:
        when = "boot" if document["system"] else "a login"
        return SERVICE.warn(f"it does not start with {when}", f"{call} enable sage-inference")
    if document["edited"]:
        return SERVICE.warn(
            f"{document['unit_path']} was edited by hand",
            f"{again} --force replaces it; {call} edit sage-inference keeps changes apart",
        )
    if document["current"] is False:
        return SERVICE.warn("its unit is that of another version or of other settings", again)
    return SERVICE.ok(f"active, by {document['unit_path']}")


def linger(facts: Facts) -> Iterator[Finding]:
    """A service of the system needs no login."""
    found = facts.service.value
    if found.document is None or not found.installed or found.document["system"]:
        return
    if found.document["linger"] is False:
        yield LINGER.warn("the service ends when you log out", "loginctl enable-linger")
    else:
        known = found.document["linger"]
        yield LINGER.ok("the service needs no login" if known else "not known here")


GATEWAY = Check("gateway", gateway)
PORT = Check("port", port)
SERVICE = Check("service", service)
LINGER = Check("linger", linger)
