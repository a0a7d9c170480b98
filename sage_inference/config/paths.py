"""Where config, state and logs live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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

    @classmethod
    def resolve(cls, config: Path | None = None, environ: Mapping[str, str] | None = None) -> Paths:
        """The user's own directories, unless ``SAGE_INFERENCE_HOME`` or ``config`` say otherwise."""
        home = (os.environ if environ is None else environ).get("SAGE_INFERENCE_HOME")
        if home:
            root = Path(home).expanduser().absolute()
            found = cls(root / "config.yaml", root / "state", root / "logs")
        else:
            import platformdirs

            found = cls(
                Path(platformdirs.user_config_dir("sage")) / "inference.yaml",
                Path(platformdirs.user_state_dir("sage")),
                Path(platformdirs.user_log_dir("sage")),
            )
        if config is None:
            return found
        return cls(config.expanduser().absolute(), found.state_dir, found.log_dir)
