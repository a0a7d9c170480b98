"""Ctrl-C at every moment of a command's life."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.gateway import clean_environment

# Says when the first of the command line's modules is imported: Python's own start is not ours to word.
_BEGUN = """
import sys
from sage_inference._entry import main
class Watch:
    def find_spec(name, *_):
        if name == "sage_inference.cli.main":
            print("begun", flush=True)
sys.meta_path.insert(0, Watch)
sys.exit(main())
"""


@pytest.mark.parametrize("command", [["inference", "status"], ["inference", "config", "show"], ["--help"]])
def test_it_shows_no_traceback(tmp_path: Path, command: list[str]) -> None:
    for step in range(0, 200, 20 if command[0] == "--help" else 10):
        with subprocess.Popen(
            [sys.executable, "-c", _BEGUN, *command],
            env=clean_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(step / 1000)  # the moment that is tried
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert b"Traceback" not in errors, errors.decode()
        assert process.returncode in (0, 3, 130, -signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["sh", "-c", 'trap "" INT; "$@"', "sh", sys.executable, "-c", _PROBE],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[-1] == "True"


_PROBE = """
import signal, sys
from sage_inference._entry import main
sys.argv = ["sage", "--version"]
main()
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""
