"""Installs and removes the service."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage_inference._version import __version__
from sage_inference.config.check import check, kept_secrets
from sage_inference.config.settings import Settings
from sage_inference.daemon import bind, control, pidfile
from sage_inference.daemon.service import environment_file, unit_file
from sage_inference.daemon.service.hidden import refuse_hidden
from sage_inference.daemon.service.manager import Manager, ServiceError
from sage_inference.daemon.service.plan import ServicePlan, check_readable, service_environ, settings_of
from sage_inference.daemon.systemd import NAME

_START_S = 120.0
_ACTIVE = ("active", "activating", "reloading")
_FORCE = "--force replaces it; systemctl {which}edit sage-inference keeps changes in a file of their own"


@dataclass(frozen=True, slots=True)
class Installed:
    """``started``: now, or with the new unit; it already ran with this unit if ``False`` and ``active``."""

    wrote_unit: bool
    wrote_environment: bool
    started: bool
    active: bool
    confined: bool


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """``kept``: files that hold what others wrote."""

    result: Literal["removed", "missing"]
    kept: tuple[str, ...] = ()


def install(
    plan: ServicePlan,
    manager: Manager,
    environ: Mapping[str, str],
    *,
    force: bool = False,
    start: bool = True,
) -> Installed:
    """Write the unit, and start it now and with each login or boot. Raises ``ServiceError`` and others of a start.

    A service that did not exist before and cannot be started is removed again.
    """
    before = unit_file.read(plan.unit_file)
    refuse_edited(plan, before, force)
    check_readable(plan)
    settings = settings_of(plan)
    wrote_environment = _environment(plan, settings, manager, environ)
    check(settings, service_environ(plan, manager.variables()))
    active = manager.show(NAME, "ActiveState").get("ActiveState") in _ACTIVE
    if not active and start:
        _check_place(plan, settings)
    confined = plan.which == "--user" and manager.can_confine()
    text = unit_file.marked(
        plan.text(settings.timeouts.drain_s, confined=confined, port=settings.server.port)
    )
    is_new = text != before
    try:
        _load(plan, settings, manager, text, before)
        manager.do("enable", NAME)
        must_start = start and (is_new or not active or _is_outdated(plan))
        if must_start:
            _start(manager, "restart" if active else "start")
    except ServiceError:
        if before is None:
            _roll_back(plan, manager)
        raise
    return Installed(is_new, wrote_environment, must_start, active or must_start, confined)


def _load(plan: ServicePlan, settings: Settings, manager: Manager, text: str, before: str | None) -> None:
    """Let the manager load the unit with this text. Raises ``ServiceError`` if the unit could not work.

    A unit that was there before is put back then.
    """
    if text != before:
        unit_file.write(plan.unit_file, text, 0o644)
    manager.do("daemon-reload")
    try:
        _check_found(plan, manager)
        refuse_hidden(plan, settings, manager)
    except ServiceError:
        if before is not None and text != before:
            unit_file.write(plan.unit_file, before, 0o644)
            manager.do("daemon-reload")
        raise


def uninstall(plan: ServicePlan, manager: Manager, *, force: bool = False) -> Uninstalled:
    """Stop the service and remove what ``install`` wrote. Raises ``ServiceError``."""
    before = unit_file.read(plan.unit_file)
    if before is None:
        environment_file.remove_unused(
            plan.environment_file
        )  # an ``install`` that failed leaves one to fill in
        return Uninstalled("missing")
    refuse_edited(plan, before, force)
    # systemd itself limits the time of a stop, by TimeoutStopSec.
    manager.do("disable", "--now", NAME, timeout_s=24 * 3600)
    unit_file.remove(plan.unit_file, folders=_own_folders(plan))
    manager.do("daemon-reload")
    with suppress(ServiceError):  # there is nothing to reset, unless it had failed
        manager.do("reset-failed", NAME)
    kept = unit_file.drop_ins(plan.unit_file)
    if environment_file.remove_unused(plan.environment_file):
        kept.append(str(plan.environment_file))
    return Uninstalled("removed", tuple(kept))


def refuse_edited(plan: ServicePlan, text: str | None, force: bool) -> None:
    if force or unit_file.content_of(text) != "edited":
        return
    if plan.unit_file.is_symlink() and os.path.realpath(plan.unit_file) == os.devnull:
        raise ServiceError(
            f"{NAME} is masked", f"systemctl {_spelled(plan)}unmask sage-inference allows it again"
        )
    raise ServiceError(
        f"{plan.unit_file} was edited, or written by something else than this command",
        _FORCE.format(which=_spelled(plan)),
    )


def _own_folders(plan: ServicePlan) -> int:
    """systemd/user in the user's configuration; folders of the system belong to nobody."""
    return 2 if plan.which == "--user" else 0


def _spelled(plan: ServicePlan) -> str:
    return "--user " if plan.which == "--user" else ""


def _environment(plan: ServicePlan, settings: Settings, manager: Manager, environ: Mapping[str, str]) -> bool:
    """Make the file of variables. Raises ``ServiceError`` if the service would lack one of them."""
    wanted = [secret.source[4:] for _, secret in kept_secrets(settings) if secret.source.startswith("env:")]
    names = [name for name in dict.fromkeys(wanted) if name not in manager.variables()]
    wrote = environment_file.create(plan.environment_file, names, environ)
    lacking = [name for name in names if name not in environment_file.names_in(plan.environment_file)]
    if lacking:
        raise ServiceError(
            f"the service would not have the variables that the configuration names: {', '.join(lacking)}",
            f"write NAME=value into {plan.environment_file}, then run this again",
        )
    return wrote


def _check_place(plan: ServicePlan, settings: Settings) -> None:
    """Raises ``DaemonError`` if a gateway runs that is not the service, or another program has the port."""
    state = control.inspect(plan.paths, timeout_s=1.0)
    if state.state not in ("stopped", "dead"):
        who = f" (pid {state.pid})" if state.pid else ""
        raise ServiceError(
            f"a gateway runs already{who}, and it is not the service",
            "sage inference stop ends it; then run this again",
        )
    bind.check_free(settings.server.host, settings.server.port)


def _check_found(plan: ServicePlan, manager: Manager) -> None:
    """Raises ``ServiceError`` if the manager reads its units elsewhere, because its XDG_CONFIG_HOME is another."""
    found = manager.show(NAME, "FragmentPath").get("FragmentPath", "")
    if not found or not Path(found).exists() or not plan.unit_file.samefile(found):
        raise ServiceError(
            f"systemd does not look for units in {plan.unit_file.parent}",
            "unset XDG_CONFIG_HOME here, or set it for the user manager too",
        )


def _is_outdated(plan: ServicePlan) -> bool:
    """Whether the running gateway is of another version than this program, after an upgrade in place."""
    info = pidfile.read(plan.paths.pid_file)
    return info is not None and info.version != __version__


def _start(manager: Manager, verb: str) -> None:
    with suppress(ServiceError):  # one that failed too often would not be started again
        manager.do("reset-failed", NAME)
    try:
        manager.do(verb, NAME, timeout_s=_START_S)
    except ServiceError as error:
        journal = f"journalctl {'--user ' if manager.which == '--user' else ''}-u sage-inference -n 20"
        cause, hint = _last_error(manager) or (error.problem, None)
        hint = f"{hint}; {journal} shows more" if hint else journal
        raise ServiceError(f"the service did not start: {cause}", hint) from None


def _last_error(manager: Manager) -> tuple[str, str | None] | None:
    """The last error that the gateway wrote into the journal, and its hint."""
    option = "--user-unit" if manager.which == "--user" else "--unit"
    call = ["journalctl", f"{option}={NAME}", "--lines=20", "--output=cat", "--no-pager", "--quiet"]
    try:
        lines = subprocess.run(
            call,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=2,
            check=False,
        ).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return None
    errors = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if not errors:
        return None
    after = [line.removeprefix("hint: ") for line in lines[errors[-1] + 1 :] if line.startswith("hint: ")]
    return lines[errors[-1]].removeprefix("error: "), after[0] if after else None


def _roll_back(plan: ServicePlan, manager: Manager) -> None:
    """Leave no half-installed service. The file of variables stays, because it may hold keys."""
    for words in (("disable", "--now", NAME), ("reset-failed", NAME)):
        with suppress(ServiceError):
            manager.do(*words)
    with suppress(ServiceError):
        unit_file.remove(plan.unit_file, folders=_own_folders(plan))
    with suppress(ServiceError):
        manager.do("daemon-reload")
    with suppress(ServiceError):
        environment_file.remove_unused(plan.environment_file)
