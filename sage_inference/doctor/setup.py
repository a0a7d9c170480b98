"""Checks of the configuration, the keys and the files."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from sage_inference.config.address import is_loopback
from sage_inference.config.check import check, kept_secrets
from sage_inference.config.errors import ConfigError
from sage_inference.config.exposure import is_open_to_all
from sage_inference.config.paths import expanded
from sage_inference.config.warnings import warnings_of
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding

_MIB = 1 << 20
_TOO_LITTLE, _LITTLE = 100 * _MIB, 1024 * _MIB
_EDIT = "sage inference config edit"


def configuration(facts: Facts) -> Iterator[Finding]:
    error = facts.settings.problem
    if error is not None:
        if isinstance(error, ConfigError):
            yield CONFIGURATION.fail(str(error).removesuffix(f"; {error.hint}"), error.hint or _EDIT)
            return
        raise error
    settings = facts.settings.value
    try:
        check(settings, facts.variables())
    except ConfigError as broken:
        yield CONFIGURATION.fail(str(broken).removesuffix(f"; {broken.hint}"), broken.hint or _EDIT)
        return
    remarks = warnings_of(settings, facts.environ)
    for remark in remarks:
        yield CONFIGURATION.warn(remark.problem, remark.hint)
    if not remarks:
        exists = facts.paths.config_file.exists()
        yield CONFIGURATION.ok(
            f"{facts.paths.config_file} is valid" if exists else "no file, so the defaults apply"
        )


def keys(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings.value
    secrets = [secret for _, secret in kept_secrets(settings)]
    exposed = []
    if any(secret.is_literal for secret in secrets):
        exposed.append(facts.paths.config_file)
    for secret in secrets:
        if secret.source.startswith("file:"):
            exposed.append(expanded(secret.source.removeprefix("file:")))
    exposed.append(facts.plan.environment_file)
    found = [path for path in dict.fromkeys(exposed) if is_open_to_all(path)]
    for path in found:
        yield KEYS.warn(
            f"other users may read {path}, which holds keys", f"chmod 600 {shlex.quote(str(path))}"
        )
    server = settings.server
    if not is_loopback(server.host) and not settings.api_keys:
        if server.insecure:
            yield KEYS.warn(
                f"anyone who reaches {server.host} may use the gateway, because server.insecure is set",
                "set api_keys",
            )
        return  # the configuration is refused otherwise
    if not found:
        who = "every caller must send one" if settings.api_keys else "none, and only this machine has access"
        yield KEYS.ok(who)


def folders(facts: Facts) -> Iterator[Finding]:
    paths = facts.paths
    for folder, what in ((paths.state_dir, "state"), (paths.log_dir, "logs")):
        yield _folder(folder, what)
    if facts.plan.which == "--system":
        yield from _closed_to_the_service(paths.config_file)


def _closed_to_the_service(file: Path) -> Iterator[Finding]:
    """A failure if the user of the system's service cannot read a file that root wrote into its folder."""
    try:
        owner, there = file.parent.stat().st_uid, file.stat()
    except OSError:  # there is none, or the check of the configuration reports it
        return
    if there.st_uid != owner and not there.st_mode & stat.S_IROTH:
        name = shlex.quote(str(file))
        yield FOLDERS.fail(
            f"the service's user cannot read {file}",
            f"sudo chown --reference={shlex.quote(str(file.parent))} {name}",
        )


def _folder(folder: Path, what: str) -> Finding:
    try:
        return _judged(folder, what)
    except OSError as error:
        return FOLDERS.fail(f"{what}: {folder}: {error.strerror}", f"ls -ld {shlex.quote(str(folder))}")


def _judged(folder: Path, what: str) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        return FOLDERS.fail(f"{what}: {there} is no folder", f"mv {shlex.quote(str(there))} elsewhere")
    if not os.access(there, os.W_OK | os.X_OK):
        return FOLDERS.fail(
            f"{what}: {there} is not writable", f"sudo chown {os.geteuid()} {shlex.quote(str(there))}"
        )
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    remedy = f"df -h {shlex.quote(str(there))} shows the disk; make room, or move the files with SAGE_INFERENCE_HOME"
    if free < _TOO_LITTLE:
        return FOLDERS.fail(f"{what}: {free // _MIB} MiB are free for {folder}", remedy)
    if free < _LITTLE:
        return FOLDERS.warn(f"{what}: only {free // _MIB} MiB are free for {folder}", remedy)
    if disk.f_files and not disk.f_favail:
        return FOLDERS.fail(f"{what}: no file can be made on the disk of {folder}", remedy)
    if there == folder and folder.stat().st_mode & stat.S_IWOTH:
        return FOLDERS.warn(
            f"{what}: other users may write into {folder}", f"chmod o-w {shlex.quote(str(folder))}"
        )
    return FOLDERS.ok(f"{what}: {folder}, {free / (1 << 30):,.0f} GiB free")


CONFIGURATION = Check("configuration", configuration)
KEYS = Check("keys", keys)
FOLDERS = Check("folders", folders)
