"""``sage inference stop`` where no gateway runs and engines do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from sage_inference.config.paths import Paths
from sage_inference.daemon import lock
from sage_inference.keeper import files
from sage_inference.keeper.client import adopt, read_exit
from tests.keeper.conftest import Engines, wait_until
from tests.support.command import sage
from tests.support.gateway import clean_environment


def test_engines_that_a_gateway_left_are_ended_and_lost_ones_reported(engines: Engines) -> None:
    folder = engines.root / "state" / "engines"
    deaf = engines.shell(
        "trap '' TERM; while :; do sleep 0.05; done", directory=str(folder / "deaf"), grace_s=0.3
    )
    plain = engines.shell("exec sleep 60", directory=str(folder / "plain"))
    (folder / "lost").mkdir()
    held = files.take_lock(str(folder / "lost"))
    assert held is not None
    ended = sage(engines.root, "stop")
    os.close(held)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == ["not running", "ended its engines: deaf, plain"]
    assert "engine lost may still run: a process holds " in ended.stderr
    for link in (deaf, plain):
        assert adopt(link.directory) is None
        record = read_exit(link.directory)
        assert record is not None
        assert record.ordered
    again = sage(engines.root, "stop")
    assert (again.returncode, again.stdout, again.stderr) == (0, "not running\n", "")


def test_a_gateway_that_is_stopped_while_it_starts_ends_the_engines_of_the_one_before(
    engines: Engines,
) -> None:
    folder = engines.root / "state" / "engines" / "left"
    about = {"entry": {"model": "m"}, "origin": "config"}
    link = engines.shell("exec sleep 60", directory=str(folder), about=about)
    gateway = subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", "start", "--no-discover", "--port", "0"],
        env=clean_environment(engines.root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lock_file = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(engines.root)}).lock_file
    wait_until(lambda: lock.look(lock_file).held)
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(30) in (0, 128 + signal.SIGTERM)
    assert adopt(folder) is None
    assert link.look() == read_exit(folder)
    assert link.exit is not None
    assert link.exit.ordered
