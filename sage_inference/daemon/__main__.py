"""The background process of ``start --background``. It reads its launch spec from standard input."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from sage_inference import lean_imports
from sage_inference.config.errors import ConfigError
from sage_inference.daemon.errors import UNEXPECTED, DaemonError
from sage_inference.daemon.handover import Takeover
from sage_inference.daemon.launch_spec import LaunchSpec
from sage_inference.daemon.readiness import Reporter
from sage_inference.daemon.run import run


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--ready-fd" or not arguments[1].isdecimal():
        print(
            "this is the gateway's background process; start it with: sage inference start", file=sys.stderr
        )
        return 2
    try:
        reporter = Reporter(int(arguments[1]))
        spec = LaunchSpec.from_json(sys.stdin.buffer.readline())
    except (OSError, ValueError) as error:
        print(f"no launch spec was given: {error}", file=sys.stderr)
        return 2
    lean_imports.leave_out()
    takeover = None
    if spec.relieves is None:
        _leave_standard_input()
    else:
        takeover = Takeover(spec.relieves, spec.paths.state_dir, lambda: _commit(reporter))
    try:
        run(
            spec.paths,
            spec.flags,
            background=True,
            config_required=spec.config_required,
            on_ready=reporter.ready,
            takeover=takeover,
        )
    except Exception as error:
        reporter.failed(_reported(error))
        return 1
    return 0


def _reported(error: Exception) -> DaemonError:
    """The error as the parent may show it. An unexpected one is logged with its traceback."""
    if isinstance(error, DaemonError):
        return error
    if isinstance(error, ConfigError):
        reported = DaemonError(str(error))
        reported.code = "config"
        return reported
    logging.getLogger("sage_inference.daemon").critical("ended by an error", exc_info=error)
    reported = DaemonError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    reported.code = UNEXPECTED
    return reported


def _commit(reporter: Reporter) -> None:
    """Ask the parent whether to go on. Raises ``DaemonError`` without a yes: the parent may be gone."""
    with suppress(OSError):
        reporter.may_commit()
    if sys.stdin.buffer.readline() != b"go\n":
        raise DaemonError("the restart was given up")
    _leave_standard_input()


def _leave_standard_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
