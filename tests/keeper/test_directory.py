"""The directory of an engine: removed, replaced, or at a long path."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
from pathlib import Path

import pytest

from sage_inference.keeper import address, files
from sage_inference.keeper.client import AlreadyKeptError, KeeperError, adopt, launch
from tests.keeper.conftest import Engines, wait_until

FOREVER = "exec sleep 60"


def adopted(engines: Engines, pid: int) -> bool:
    try:
        link = adopt(engines.directory)
    except KeeperError:
        return False
    if link is None:
        return False
    with link:
        return link.keeper_pid == pid


def take_away(directory: Path, what: str) -> None:
    if what == "directory":
        shutil.rmtree(directory)
    elif what == "renamed":
        directory.rename(directory.with_name("old"))
    else:
        (directory / what).unlink()


def test_what_was_removed_is_put_back(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.1)
    links = {}
    for what in ("directory", "renamed", files.LOCK, files.SOCKET, files.ENGINE):
        engines.directory = engines.root / what / "engines" / "e"
        links[what] = engines.shell(FOREVER)
    for what, link in links.items():
        take_away(link.directory, what)
    for what, link in links.items():
        engines.directory = link.directory
        wait_until(functools.partial(adopted, engines, link.keeper_pid))
        assert link.directory.stat().st_mode & 0o777 == 0o700
        if what == "directory":
            with pytest.raises(AlreadyKeptError):
                engines.shell(FOREVER)
        link.stop()
    for link in links.values():
        record = link.wait_exit(10)
        assert record is not None
        assert record.ordered
        assert adopt(link.directory) is None


def test_an_engine_whose_place_was_taken_ends(engines: Engines) -> None:
    old = engines.shell(FOREVER)
    shutil.rmtree(engines.directory)
    new = engines.shell(FOREVER)
    assert new.keeper_pid != old.keeper_pid
    wait_until(lambda: old.look() is not None)
    assert old.exit is not None
    assert old.exit.ordered
    wait_until(lambda: old.ended)
    assert new.status().exit is None
    assert adopted(engines, new.keeper_pid)


def test_a_place_that_cannot_be_put_back_does_not_end_the_engine(engines: Engines) -> None:
    link = engines.shell(FOREVER, orphan_timeout_s=1.3)
    shutil.rmtree(engines.root / "engines")
    (engines.root / "engines").write_text("a file")
    record = link.wait_exit(15)  # nobody reaches it any more, so it ends as an orphan
    assert record is not None
    assert record.ordered
    (engines.root / "engines").unlink()


@pytest.mark.parametrize("length", [108, 400])
def test_the_path_may_be_longer_than_a_sockets_name(engines: Engines, length: int) -> None:
    folder = engines.root
    while len(str(folder)) < length:
        folder = folder / ("d" * min(200, max(1, length - len(str(folder)) - 1)))
    engines.directory = folder
    link = engines.shell(FOREVER)
    link.beat()
    assert (folder / files.SOCKET).is_socket()
    assert adopted(engines, link.keeper_pid)


def test_a_folder_without_sockets_gets_one_in_the_kernel() -> None:
    sock, where = address.listen("/proc/self")
    with sock, address.connect("/proc/self", where, 1.0) as client:
        assert where.startswith("@")
        assert address.peer(client) == os.getpid()


def test_another_users_connection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert address.peer(ours) == os.getpid()
        if os.geteuid() == 0:
            monkeypatch.setattr("os.geteuid", lambda: 1000)
            assert address.peer(ours) == os.getpid()  # root's
        else:
            monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
            assert address.peer(ours) is None


NOISE = (b"\n", b"[]\n", b"{\n", b"[" * 3000 + b"\n", b"x" * 9000, b'{"ask": 5}\n', b"")


def test_nonsense_on_the_socket_does_no_harm(engines: Engines) -> None:
    link = engines.shell(FOREVER)
    for noise in NOISE * 12:  # more than it keeps
        sock = address.connect(str(engines.directory), files.SOCKET, 2.0)
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(noise)
        sock.close()
    idle = [address.connect(str(engines.directory), files.SOCKET, 2.0) for _ in range(70)]
    assert link.status().exit is None
    for sock in idle:
        sock.close()
    link.kill()
    wait_until(lambda: link.look() is not None)


def test_a_directory_that_cannot_be_made_is_an_error(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(KeeperError, match="cannot be made"):
        launch(engines.spec("/bin/true"), "plain")
