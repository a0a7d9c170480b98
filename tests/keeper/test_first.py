"""A keeper starts, answers and stops one engine."""

from __future__ import annotations

from pathlib import Path

from sage_inference.keeper.client import adopt, directories, follow, launch, read_exit
from sage_inference.keeper.spec import KeeperSpec


def test_an_engine_is_started_adopted_and_stopped(tmp_path: Path) -> None:
    directory = tmp_path / "engines" / "tiny"
    spec = KeeperSpec(
        name="tiny",
        directory=str(directory),
        argv=["/bin/sh", "-c", "echo ready; exec sleep 60"],
        env={"PATH": "/usr/bin:/bin"},
        spec_hash="abc",
        about={"model": "tiny"},
    )
    with launch(spec, "plain") as link:
        link.beat()
        assert link.status().spec_hash == "abc"
        assert directories(tmp_path) == [directory]
        with adopt(directory) or link as again:
            assert again.keeper_pid == link.keeper_pid
        link.stop()
        record = link.wait_exit(10)
    assert record is not None
    assert (record.signal, record.ordered) == (15, True)
    assert adopt(directory) is None
    assert read_exit(directory) == record
    assert list(follow(directory, lines=1, follow=False)) == ["ready"]
