"""Checks of the gateway, its port and its service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sage_inference._version import __version__
from sage_inference.daemon import bind, managed
from sage_inference.daemon.errors import BindError, PortTaken
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding
from sage_inference.keeper.own_unit import unit_of
from sage_inference.netloc import netloc
from sage_inference.port_holder import port_holder


def gateway(facts: Facts) -> Iterator[Finding]:
    error = facts.state.problem
    if error is not None:
        raise error
    state = facts.state.value
    if state.state == "running" and state.live is not None:
        version = state.live.get("version")
        if version != __version__:
            yield GATEWAY.warn(
                f"version {version} runs, and {__version__} is installed",
                f"{_restart(state.info)} changes over",
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


def _restart(info: PidInfo | None) -> str:
    """The command that replaces the running gateway."""
    if info is None or not info.supervised:
        return "sage inference restart"
    try:
        cgroups = Path(f"/proc/{info.pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cgroups = ""
    unit = unit_of(cgroups, is_user=False)
    return f"systemctl {unit[1]} restart {unit[0]}" if unit else "a restart by its supervisor"


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
        found = port_holder(number, host)
        words = found.words if found else "another program"
        another = "sage inference config set server.port NUMBER takes another"
        yield PORT.fail(
            f"{netloc(host, number)} is held by {words}",
            f"{found.remedy(number)}; {another}" if found else another,
        )
    except BindError as error:
        yield PORT.fail(error.problem, "sage inference config set server.host HOST")
    else:
        yield PORT.ok(f"{netloc(host, number)} is free")


def service(facts: Facts) -> Iterator[Finding]:
    error = facts.service.problem
    if error is not None:
        raise error
    found = facts.service.value
    if found.document is None:
        absent = found.absent.problem if found.absent else "there is no user manager"
        yield SERVICE.ok(f"not installed: {absent}")
        return
    document = found.document
    again = "sage inference service install"
    if not document["installed"]:
        yield SERVICE.ok("not installed")
    elif document["active"] == "failed":
        yield SERVICE.fail(
            f"the service failed ({document['result']})", "journalctl --user -u sage-inference -n 20"
        )
    elif document["sub_state"] == "auto-restart":
        yield SERVICE.fail("the service ends again and again", "journalctl --user -u sage-inference -n 20")
    elif document["active"] is None:
        yield SERVICE.warn("systemd does not answer", "systemctl --user status")
    elif document["active"] == "inactive":
        yield SERVICE.warn("installed, and not running", "systemctl --user start sage-inference")
    elif not document["enabled"]:
        yield SERVICE.warn("it does not start with a login", "systemctl --user enable sage-inference")
    elif document["edited"]:
        yield SERVICE.warn(
            f"{document['unit_path']} was edited by hand",
            f"{again} --force replaces it; systemctl --user edit sage-inference keeps changes apart",
        )
    elif document["current"] is False:
        yield SERVICE.warn("its unit is that of another version or of other settings", again)
    else:
        yield SERVICE.ok(f"active, by {document['unit_path']}")


def linger(facts: Facts) -> Iterator[Finding]:
    found = facts.service.value
    if found.document is None or not found.installed:
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
