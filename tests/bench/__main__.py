"""``python -m tests.bench COMMAND``: every module in ``tests.bench.commands`` is a command of its name."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys

from tests.bench import commands
from tests.bench.errors import BenchError


def main(argv: list[str] | None = None) -> int:
    """A command module has ``HELP``, ``configure(parser)`` and ``run(arguments) -> exit code``."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for found in pkgutil.iter_modules(commands.__path__):
        module = modules[found.name] = importlib.import_module(f"{commands.__name__}.{found.name}")
        module.configure(subparsers.add_parser(found.name, help=module.HELP, description=module.HELP))
    arguments = parser.parse_args(argv)
    # Whatever ends us, the processes that we started end too: their `finally` needs an exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return int(modules[arguments.command].run(arguments))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
