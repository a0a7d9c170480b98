"""``sage inference stop`` where no gateway runs and engines do."""

from __future__ import annotations

import os

from sage_inference.keeper import files
from sage_inference.keeper.client import adopt, read_exit
from tests.keeper.conftest import Engines
from tests.support.command import sage


def test_engines_that_a_gateway_left_are_ended_and_lost_ones_reported(engines: Engines) -> None:
    folder = engines.root / "state" / "engines"
    deaf = engines.shell(
        "trap '' TERM; while :; do sleep 0.05; done", directory=str(folder / "deaf"), grace_s=0.3
    )
    plain = engines.shell("exec sleep 60", directory=str(folder / "plain"))
    (folder / "lost").mkdir()
    lock = files.take_lock(str(folder / "lost"))
    assert lock is not None
    ended = sage(engines.root, "stop")
    os.close(lock)
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
