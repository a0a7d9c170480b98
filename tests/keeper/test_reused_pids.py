"""Pids that the system gives to other processes, within a pid namespace where a test can bring that about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.keeper.conftest import Engines

INSIDE = """
import json, os, subprocess, sys, time
from pathlib import Path
from sage_inference.keeper.client import adopt, launch
from sage_inference.keeper.spec import KeeperSpec

out = Path(sys.argv[2])
spec = KeeperSpec(**json.loads(sys.argv[1]))

def until(true):
    for _ in range(2000):
        if true():
            return
        time.sleep(0.005)
    sys.exit("it did not happen in time")

def foreign(pid):
    for _ in range(50):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "60"])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    sys.exit(f"pid {pid} was not free")

link = launch(spec, "plain")
until((out / "child").exists)
child = foreign(int((out / "child").read_text()))  # its parent has waited for it
(out / "go").touch()
until(lambda: link.look() is not None)  # the first process ends; a deaf child of it is left
leader = foreign(link.first.engine_pid)
link.stop(60)
link.kill()
assert link.wait_exit(10) is not None
keeper = foreign(link.keeper_pid)
assert adopt(link.directory) is None
# While a process holds the lock, the record with the keeper's pid does not make a stranger the keeper.
holder = launch(spec, "plain")
recorded = link.directory / "engine.json"
document = json.loads(recorded.read_text())
recorded.write_text(json.dumps(document | {"keeper_pid": keeper.pid}))
try:
    adopt(link.directory)
    sys.exit("a stranger was taken for the keeper")
except Exception as error:
    assert "is not the process" in str(error), error
recorded.write_text(json.dumps(document))
for process in (child, leader, keeper):
    assert process.poll() is None, "a process that is not ours was signalled"
    process.kill()
    process.wait()
holder.kill()
holder.wait_exit(10)
print("done")
"""
ENGINE = """
(exit 0) & echo $! > $OUT/draft; wait; mv $OUT/draft $OUT/child
# In a session of its own, because a pid is in use as long as a session has its number.
setsid sh -c "trap '' TERM; exec sleep 60" &
while [ ! -e $OUT/go ]; do sleep 0.02; done
"""


def may_unshare() -> bool:
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo 5 > /proc/sys/kernel/ns_last_pid"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def test_a_pid_that_another_process_has_now_is_not_signalled(engines: Engines) -> None:
    if not may_unshare():
        pytest.skip("pid namespaces are not allowed here")
    document = engines.spec("/bin/sh", "-c", ENGINE, grace_s=3.0).as_document()
    ended = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-c", INSIDE, json.dumps(document), str(engines.root)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
