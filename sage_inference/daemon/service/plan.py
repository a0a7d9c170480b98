"""The files of the service on this machine, and the text that its unit should have."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_inference.config.paths import HOME_VARIABLE, SYSTEM_HOME, Paths
from sage_inference.config.settings import Settings
from sage_inference.daemon import systemd
from sage_inference.daemon.service import environment_file
from sage_inference.daemon.service.manager import ServiceError, Which

# A user manager does not have the variables of a shell, and these decide which files the gateway uses.
PLACES = (HOME_VARIABLE, "XDG_CONFIG_HOME", "XDG_STATE_HOME")
_SYSTEM_FOLDER = SYSTEM_HOME.name
_LOWEST_FREE_PORT = 1024


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """``command`` runs this program, ``config`` is the file that ``--config`` names, ``user`` that of a system unit."""

    which: Which
    command: Sequence[str]
    paths: Paths
    config: Path | None = None
    user: str | None = None

    @property
    def unit_file(self) -> Path:
        if self.which == "--system":
            return Path("/etc/systemd/system") / systemd.NAME
        own = os.environ.get("XDG_CONFIG_HOME")
        folder = Path(own) if own and Path(own).is_absolute() else Path.home() / ".config"
        return folder / "systemd" / "user" / systemd.NAME

    @property
    def environment_file(self) -> Path:
        if self.which == "--system":
            return Path("/etc") / _SYSTEM_FOLDER / "inference.env"
        # Beside the user's own configuration, also where --config names another.
        return Paths.resolve().config_file.with_name("inference.env")

    def text(self, drain_s: float, *, confined: bool, port: int = _LOWEST_FREE_PORT) -> str:
        """The unit. ``confined`` is for a user's manager, and the port for the system's. Raises ``ServiceError``."""
        if not str(self.environment_file).isprintable():
            raise ServiceError(
                f"systemd takes no file of variables at {str(self.environment_file)!r}",
                f"name a folder without control characters in {HOME_VARIABLE}",
            )
        options = () if self.config is None else ("--config", str(self.config))
        unit = systemd.Unit(
            self.command,
            options,
            environ=self._environ(),
            environment_file=str(self.environment_file),
            drain_s=drain_s,
        )
        if self.which == "--user":
            return systemd.user_unit(unit, confined=confined)
        low = port < _LOWEST_FREE_PORT
        return systemd.system_unit(unit, user=self.user, folder=_SYSTEM_FOLDER, low_port=low)

    def _environ(self) -> dict[str, str]:
        if self.which == "--system":
            # Models that engines download belong there, too: a user that systemd makes up has no home directory.
            home = {} if self.user else {"HOME": str(SYSTEM_HOME)}
            return home | {HOME_VARIABLE: str(SYSTEM_HOME)}
        return {name: str(Path(os.environ[name]).absolute()) for name in PLACES if os.environ.get(name)}


def plan(
    which: Which, command: Sequence[str], config: Path | None = None, user: str | None = None
) -> ServicePlan:
    """Raises ``ConfigError``, or ``ServiceError`` for a system service that cannot be run so."""
    if config is not None:
        config = Paths.resolve(config).config_file
    if which == "--user":
        return ServicePlan(which, command, Paths.resolve(config), config)
    if user is not None:
        try:
            pwd.getpwnam(user)
        except (KeyError, ValueError):
            raise ServiceError(f"there is no user {user}", "--as names a user of this machine") from None
    paths = Paths.resolve(config, {HOME_VARIABLE: str(SYSTEM_HOME)})
    return ServicePlan(which, command, paths, config, user)


def needs_root(command: Sequence[str], deed: str) -> ServiceError | None:
    """The error for a user who may not write the system's units. None for root."""
    if os.geteuid() == 0:
        return None
    call = shlex.join([*command, "inference", "service", deed, "--system"])
    return ServiceError("only root can change the units of the system", f"sudo {call}")


def needs_root_to_read(found: ServicePlan, deed: str) -> ServiceError | None:
    """The error for a user who may not enter the folder of the system's service. None for one who may."""
    if os.access(SYSTEM_HOME, os.X_OK) or not os.path.lexists(SYSTEM_HOME):
        return None
    call = shlex.join([*found.command, "inference", deed, "--system"])
    return ServiceError(f"only root can read {SYSTEM_HOME}", f"sudo {call}")


def service_environ(plan: ServicePlan, known: set[str]) -> Mapping[str, str]:
    """The names of the variables that the service will have: those of ``known``, and of its file. No value is real."""
    return dict.fromkeys(known | environment_file.names_in(plan.environment_file), "set")


def settings_of(plan: ServicePlan) -> Settings:
    """The settings that the service will have: not this shell's variables, but those of its file.

    Raises ``ConfigError``, or ``ServiceError`` if the file of variables cannot be read.
    """
    from sage_inference.config.load import load

    environ = environment_file.values_in(plan.environment_file)
    return load(plan.paths.config_file, environ, required=plan.config is not None)


def check_readable(plan: ServicePlan) -> None:
    """Raises ``ServiceError`` if the user that systemd makes up could not run this program."""
    if plan.which == "--user" or plan.user is not None:
        return
    program = Path(plan.command[0])
    for path in (program.resolve(), Path(sys.executable).resolve(), Path(__file__).resolve()):
        for folder in path.parents:
            try:
                closed = not folder.stat().st_mode & 0o001
            except OSError:
                closed = True
            if closed:
                raise ServiceError(
                    f"a user of the service's own could not run {program}: {folder} is closed to others",
                    f"--as {os.environ.get('SUDO_USER') or 'USER'} runs it as a user who may",
                )
