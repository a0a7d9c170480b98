"""Engines that are prepared at the same time get different ports."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.ports import free_port


@pytest.mark.parametrize(("first", "engines"), [(18500, 2), (18520, 4), (18540, 8), (18560, 16), (18580, 20)])
def test_no_two_engines_get_one_port(first: int, engines: int) -> None:
    together = Barrier(engines)

    def prepare(_: int) -> int:
        together.wait(10)
        return free_port(range(first, first + 20))

    with ThreadPoolExecutor(engines) as threads:
        given = list(threads.map(prepare, range(engines)))
    assert len(set(given)) == engines


def test_a_port_is_given_again_only_if_there_is_no_other() -> None:
    ports = range(18600, 18603)
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
