"""The paths of configuration, state and logs."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "SAGE_INFERENCE_HOME"
SYSTEM_HOME = Path("/var/lib/sage-inference")  # all files of the system's service
_HINT = f"{HOME_VARIABLE}=/some/folder keeps all files there"


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one gateway. ``SAGE_INFERENCE_HOME`` puts all of them under one directory."""

    config_file: Path
    state_dir: Path
    log_dir: Path

    @property
    def lock_file(self) -> Path:
        return self.state_dir / "inference.lock"

    @property
    def pid_file(self) -> Path:
        return self.state_dir / "inference.json"

    @property
    def log_file(self) -> Path:
        return self.log_dir / "inference.log"

    @property
    def usage_file(self) -> Path:
        return self.state_dir / "usage.sqlite3"

    @property
    def sources_folder(self) -> Path:
        return self.state_dir / "sources"

    @classmethod
    def resolve(cls, config: Path | None = None, environ: Mapping[str, str] | None = None) -> Paths:
        """The user's own directories, unless ``SAGE_INFERENCE_HOME`` or ``config`` name others.

        Raises ``ConfigError`` for a path that cannot be used.
        """
        home = (os.environ if environ is None else environ).get(HOME_VARIABLE)
        found = cls._under(_absolute(home, HOME_VARIABLE)) if home else cls._of_the_user()
        if config is None:
            return found
        return cls(_absolute(config, "--config"), found.state_dir, found.log_dir)

    @classmethod
    def _under(cls, root: Path) -> Paths:
        return cls(root / "config.yaml", root / "state", root / "logs")

    @classmethod
    def _of_the_user(cls) -> Paths:
        import platformdirs

        # Without HOME and without an entry in the user database, platformdirs raises RuntimeError in
        # some versions and returns paths that begin with "~" in others.
        try:
            found = cls(
                Path(platformdirs.user_config_dir("sage")) / "inference.yaml",
                Path(platformdirs.user_state_dir("sage")),
                Path(platformdirs.user_log_dir("sage")),
            )
        except RuntimeError:
            found = None
        if found is None or "~" in {found.config_file.parts[0], found.state_dir.parts[0]}:
            raise _config_error(f"user id {os.getuid()} has no home directory")
        return found


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` and ``~user`` replaced. Raises ``OSError`` for an unknown user or a NUL."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path cannot hold a NUL character", str(path).replace("\0", "\\0"))
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        reason = f"there is no user {user!r} with a home directory" if user else "there is no home directory"
        raise OSError(errno.ENOENT, reason, str(path)) from None


def _absolute(path: str | Path, source: str) -> Path:
    try:
        return expanded(path).absolute()
    except OSError as error:
        raise _config_error(f"{source}: {path} cannot be used: {error.strerror}", source) from None


def _config_error(problem: str, source: str = HOME_VARIABLE) -> Exception:
    # Imported late, because ``status`` needs this module and must not load difflib.
    from sage_inference.config.errors import ConfigError

    if source == HOME_VARIABLE:
        return ConfigError(problem, hint=_HINT)
    return ConfigError(problem, key=source)
