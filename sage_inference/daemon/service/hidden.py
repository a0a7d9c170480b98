"""Files of a service that its unit hides from it: systemd puts something else in the place of their folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sage_inference.config.address import parse_backend
from sage_inference.config.check import kept_secrets
from sage_inference.config.settings import Settings
from sage_inference.daemon.service.manager import Manager, ServiceError
from sage_inference.daemon.service.plan import ServicePlan
from sage_inference.daemon.systemd import NAME

_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - names of folders, no files of ours
_HOMES = ("/home", "/root", "/run/user")
_BINDS = ("BindPaths", "BindReadOnlyPaths")
_PROPERTIES = ("PrivateTmp", "ProtectHome", "InaccessiblePaths", "TemporaryFileSystem", *_BINDS)
_IMPLIED = {"PrivateTmp": "yes"}  # by DynamicUser
_PROGRAM, _CONFIGURATION = "its program", "its configuration"


def refuse_hidden(
    plan: ServicePlan, settings: Settings, manager: Manager, *, with_program: bool = True
) -> None:
    """Raises ``ServiceError`` for a file that the service needs and its unit, as ``manager`` has loaded it, hides."""
    options = implied(plan) | manager.show(NAME, *_PROPERTIES)
    program = _program(plan) if with_program else ()
    for what, file in (*program, *_configured(plan, settings)):
        found = hider_of(file, options)
        if found is not None:
            option, folder = found
            raise ServiceError(
                f"the service cannot reach {what}, {file}, because {option} hides {folder} from it",
                _remedy(plan, what, option),
            )


def implied(plan: ServicePlan) -> dict[str, str]:
    """The options that hide folders in the unit that ``install`` writes."""
    return _IMPLIED if plan.which == "--system" and plan.user is None else {}


def _remedy(plan: ServicePlan, what: str, option: str) -> str:
    places = {_PROGRAM: "install it elsewhere, for example in /opt", _CONFIGURATION: "move it elsewhere"}
    elsewhere = places.get(what, f"move it elsewhere, and change {what}")
    if option in implied(plan):
        user = os.environ.get("SUDO_USER") or "USER"
        return f"{elsewhere}; or --as {user} runs the service as a user of yours, from whom nothing is hidden"
    which = "--user " if plan.which == "--user" else ""
    return f"{elsewhere}; or take {option} out of the unit: systemctl {which}edit sage-inference"


def _program(plan: ServicePlan) -> Iterator[tuple[str, Path]]:
    command = [word for word in plan.command if word.startswith("/")]
    for word in (*command, sys.executable, sys.prefix, __file__):
        yield _PROGRAM, Path(word)


def _configured(plan: ServicePlan, settings: Settings) -> Iterator[tuple[str, Path]]:
    """The files that the configuration names, each with its setting, and its own."""
    if plan.paths.config_file.exists():
        yield _CONFIGURATION, plan.paths.config_file
    server = settings.server
    named = [("server.tls_cert", server.tls_cert), ("server.tls_key", server.tls_key)]
    for at, instance in enumerate(settings.instances):
        named += [
            (f"instances[{at}].url", parse_backend(instance.url).uds),
            (f"instances[{at}].ca_file", instance.ca_file),
        ]
    named.append(("scheduling.record_file", settings.scheduling.record_file))
    for place, secret in kept_secrets(settings):
        named.append((place, secret.source.removeprefix("file:")))
    for place, name in named:
        if name is not None and name.startswith("/"):  # another name is relative to the service's folders
            yield place, Path(name)


def hider_of(file: Path, options: Mapping[str, str]) -> tuple[str, str] | None:
    """The option of a unit that hides the file, and the folder that it hides. None for a file that is seen.

    ``options`` are as ``systemctl show`` has them.
    """
    binds = [entry for name in _BINDS for entry in options.get(name, "").split()]
    bound = [Path((entry.split(":")[1:2] or [entry])[0]) for entry in binds]
    places = {file, Path(os.path.realpath(file))}
    for option, folder in _hidden(options):
        opened = [each for each in bound if each.is_relative_to(folder)]
        for place in places:
            if place.is_relative_to(folder) and not any(map(place.is_relative_to, opened)):
                return option, folder
    return None


def _hidden(options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each option that hides a folder, and the folder."""
    if options.get("PrivateTmp", "no") not in ("no", ""):
        yield from (("PrivateTmp", folder) for folder in _TEMPORARY)
    if options.get("ProtectHome") in ("yes", "tmpfs"):
        yield from (("ProtectHome", folder) for folder in _HOMES)
    for option in ("InaccessiblePaths", "TemporaryFileSystem"):
        for entry in options.get(option, "").split():
            yield option, entry.lstrip("-+").partition(":")[0]
