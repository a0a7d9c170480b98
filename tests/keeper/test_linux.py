"""Children, trees, and processes that the kernel killed for lack of memory, as it reports them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.keeper import linux
from sage_inference.keeper.client import adopt, read_exit
from sage_inference.keeper.oom import OomCounter
from tests.keeper.conftest import PYTHON, Engines, wait_until


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def test_children_are_found_with_and_without_the_kernels_list(
    sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(sleepers) <= set(linux.own_children())

    def missing(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(linux, "_text", missing)
    assert set(sleepers) <= set(linux.own_children())
    assert os.getppid() not in linux.own_children()


def test_a_tree_has_living_descendants_only(sleepers: list[int]) -> None:
    found = linux.tree(os.getpid())
    assert set(sleepers) <= set(found)
    assert len(found) == len(set(found))
    assert os.getpid() not in found
    os.kill(sleepers[0], signal.SIGKILL)
    wait_until(lambda: linux.start_ticks(sleepers[0]) is None)  # a zombie until it is waited for
    assert sleepers[0] not in linux.tree(os.getpid())


@pytest.mark.parametrize("pid", [0, -1, 99999999])
def test_a_free_pid_has_no_start_and_no_parent(pid: int) -> None:
    assert linux.start_ticks(pid) is None
    assert linux.parent(pid) is None
    assert linux.command_line(pid) == b""


@pytest.mark.parametrize(
    ("counts", "at", "rose"),
    [
        ([3, 3, 3], 2.0, False),
        ([3, 4, 4], 2.0, True),
        ([3, 4, 4], 30.0, False),  # long before the engine's end: it was another process
        ([0, 0, 1], 2.0, True),
        ([5, 0, 0], 2.0, False),
    ],
)
def test_a_kill_counts_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: list[int], at: float, rose: bool
) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr("sage_inference.keeper.oom._files", lambda: ["/nowhere", str(events)])

    def write(count: int) -> None:
        events.write_text(f"low 0\nhigh 0\noom 9\noom_kill {count}\noom_group_kill 0\n")

    write(counts[0])
    counter = OomCounter(0.0)
    write(counts[1])
    counter.look(1.0)
    write(counts[2])
    assert counter.rose(at) is rose


GREEDY = """
import time
held = []
for _ in range(100):
    held.append(bytearray(b"x") * (4 << 20))
time.sleep(60)
"""


@contextlib.contextmanager
def small_group() -> Iterator[Path | None]:
    """A cgroup with 80 MB, or None where that is not allowed."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(root) / f"sage-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            with contextlib.suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
            (folder / limit).write_text(str(80 << 20))
            yield folder
            return
        except OSError:
            continue
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
    yield None


def test_an_engine_that_the_kernel_killed_for_memory_is_recorded_so(engines: Engines) -> None:
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "Path(sys.argv[1], 'cgroup.procs').write_text('0')\n"
        "from sage_inference.keeper.client import launch\n"
        "from sage_inference.keeper.spec import KeeperSpec\n"
        "launch(KeeperSpec(**json.loads(sys.argv[2])), 'plain').wait_exit(20)\n"
    )
    document = json.dumps(engines.spec(*PYTHON, GREEDY, grace_s=0.5).as_document())
    with small_group() as group:
        if group is None:
            pytest.skip("cgroups with a limit of memory are not allowed here")
        subprocess.run([sys.executable, "-c", program, str(group), document], check=True, timeout=40)
        wait_until(lambda: not engines.processes())
        record = read_exit(engines.directory)
        wait_until(lambda: not (group / "cgroup.procs").read_text())
    assert adopt(engines.directory) is None
    assert record is not None
    assert (record.signal, record.ordered, record.oom_killed) == (signal.SIGKILL, False, True)
