"""Engines that are prepared at the same time get different ports."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.ports import free_port, socket_path, sweep_sockets
from sage_inference.keeper import files


@pytest.mark.parametrize(("first", "engines"), [(17500, 2), (17520, 4), (17540, 8), (17560, 16), (17580, 20)])
def test_no_two_engines_get_one_port(first: int, engines: int) -> None:
    together = Barrier(engines)

    def prepare(_: int) -> int:
        together.wait(10)
        return free_port(range(first, first + 20))

    with ThreadPoolExecutor(engines) as threads:
        given = list(threads.map(prepare, range(engines)))
    assert len(set(given)) == engines


def test_a_port_is_given_again_only_if_there_is_no_other() -> None:
    ports = range(17600, 17603)
    first = [free_port(ports) for _ in range(3)]
    assert sorted(first) == list(ports)
    assert free_port(ports) in ports
    assert free_port(ports, taken=set(ports[:2])) == ports[2]


def test_a_range_without_a_free_port_names_a_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(LaunchError) as refused:
            free_port(range(port, port + 1))
    assert refused.value.message.startswith(f"no port from {port} to {port} is free; {port} is taken by pid ")
    assert refused.value.hint == (
        f"kill {os.getpid()} ends it; or set managed.ports to a range with free ports"
    )


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket's path has 107 bytes at most
        yield Path(short)


def test_sockets_of_former_engines_are_swept_and_others_stay(directory: Path) -> None:
    for name in ("engine-a.sock", "engine-b.sock", "keeper.sock"):
        listener(directory / name).close()  # as a killed engine leaves it
    (directory / "engine-c.txt").touch()
    with listener(directory / "engine-d.sock"):  # somebody serves there, whoever it is
        path = socket_path(directory)
        assert path is not None
        left = {each.name for each in directory.iterdir()}
    assert left == {"keeper.sock", "engine-c.txt", "engine-d.sock"}


def test_no_socket_is_swept_while_a_keeper_holds_the_directory(directory: Path) -> None:
    loading = directory / "engine-a.sock"
    with socket.socket(socket.AF_UNIX) as bound:  # vLLM binds minutes before it listens
        bound.bind(str(loading))
        lock = files.take_lock(str(directory))
        assert lock is not None
        sweep_sockets(directory)
        assert loading.exists()
        os.close(lock)
    sweep_sockets(directory)
    assert not loading.exists()


def test_a_directory_that_is_not_there_has_nothing_to_sweep(directory: Path) -> None:
    sweep_sockets(directory / "none")
