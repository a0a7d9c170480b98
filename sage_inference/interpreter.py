"""The command that runs a module of this package in another Python interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "PYTHON_COLORS")
_LAUNCHER = Path(__file__).resolve().parent / "_launch.py"


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs ``module`` of this very package, wherever it was imported from.

    ``-P`` and the launcher keep the current directory and our parent directory off ``sys.path``. Otherwise a file there
    that is named like a module of Python (``random.py``) would be imported and executed instead of that module.
    """
    return [sys.executable, "-P", str(_LAUNCHER), module, *arguments]


def environment() -> dict[str, str]:
    """Our environment for a process whose output goes to a file or a pipe.

    Entries of PYTHONPATH that mean the current directory are left out: ``PYTHONPATH=$PYTHONPATH:/mine`` begins with an
    empty entry if the variable was not set. Variables that ask for colours, as of a traceback, are left out too.
    """
    environ = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    if "PYTHONPATH" in environ:
        entries = environ["PYTHONPATH"].split(os.pathsep)
        environ["PYTHONPATH"] = os.pathsep.join(each for each in entries if each and Path(each) != Path())
    return environ
