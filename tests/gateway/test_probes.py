"""Probes blame no engine for an accident of one probe, and miss none that is gone."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from sage_inference.config.settings import HealthSettings
from sage_inference.engines.dialects import OPENAI
from sage_inference.engines.probe import probe
from sage_inference.gateway import fleet
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.probed import Health, ProbedEngine, answer, reset, well

QUICK = HealthSettings(interval_s=0.05, timeout_s=0.2)
READY, EJECTED = EngineState.READY, EngineState.EJECTED


def closes(sock: socket.socket) -> bool:
    well(sock)
    return False


def resets(sock: socket.socket) -> bool:
    well(sock)
    reset(sock)
    return False


def half_closes(sock: socket.socket) -> bool:
    well(sock)
    sock.shutdown(socket.SHUT_WR)
    return True


def says_close(sock: socket.socket) -> bool:
    sock.sendall(answer("200 OK", None, "connection: close"))
    return False


def http10(sock: socket.socket) -> bool:
    sock.sendall(b"HTTP/1.0 200 OK\r\nserver: old\r\n\r\nfine")
    return False


def after(seconds: float) -> Health:
    """The connection is closed so long after an answer: as keep-alive times end."""

    def closes_later(sock: socket.socket) -> bool:
        well(sock)
        time.sleep(seconds)
        return False

    return closes_later


def dropped(sock: socket.socket) -> bool:
    return False


def dropped_by_reset(sock: socket.socket) -> bool:
    reset(sock)
    return False


def fails(sock: socket.socket) -> bool:
    sock.sendall(answer("500 Internal Server Error"))
    return True


def cut(sock: socket.socket) -> bool:
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    return False


def garbage(sock: socket.socket) -> bool:
    sock.sendall(b"\x00\x01\x02\r\n\r\n")
    return False


def slow(sock: socket.socket) -> bool:
    time.sleep(0.25)  # over the time-out of 0.2 s
    return well(sock)


def until_probed(g: InProcess, engine: ProbedEngine, times: int) -> None:
    wanted = engine.probes + times
    g.until(lambda _: engine.probes >= wanted, 20)


def never_lost(running: RunningGateway) -> bool:
    instance = running.gateway.engines["e0"].instance
    return instance.state is READY and instance.load.lost_at < 0


ENDS = [closes, resets, half_closes, says_close, http10, after(0.04), after(0.05), after(0.06)]
IDS = ["closes", "resets", "half_closes", "says_close", "http10", "after40ms", "after50ms", "after60ms"]


@pytest.mark.parametrize("end", ENDS, ids=IDS)
def test_however_an_engine_ends_its_connections_no_probe_meets_the_end(end: Health) -> None:
    with ProbedEngine(end) as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 12)
        assert g.ask(never_lost)
        assert engine.connections >= engine.probes  # none was kept


ACCIDENTS: list[Callable[[socket.socket], bool]] = [dropped, dropped_by_reset, fails, cut, garbage, slow]


@pytest.mark.parametrize("accident", ACCIDENTS)
@pytest.mark.parametrize("every", [2, 10])
def test_a_question_that_fails_now_and_then_ejects_nobody(accident: Health, every: int) -> None:
    with ProbedEngine(*[well] * (every - 1), accident) as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 2 * every + 4)
        assert g.ask(never_lost)


@pytest.mark.parametrize("fault", ACCIDENTS)
def test_a_probe_of_which_both_questions_fail_ejects(fault: Health) -> None:
    with ProbedEngine(well) as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 1)
        engine.script = itertools.repeat(fault)
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EJECTED, 5)
        engine.script = itertools.repeat(well)
        g.until(lambda r: r.gateway.engines["e0"].instance.state is READY, 5)


def test_a_refused_probe_ejects_at_once() -> None:
    with ProbedEngine() as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 1)
        engine.refuse()
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EJECTED, 5)
        assert "connection refused" in str(g.ask(lambda r: r.gateway.engines["e0"].last_error))


def test_hundreds_of_probes_never_race_the_engines_keep_alive_time() -> None:
    """Each comes as the connection of the one before would be closed, give or take two milliseconds."""

    async def chain(url: str, number: int) -> list[str | None]:
        rng, errors = random.Random(number), []
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            for _ in range(50):
                errors.append((await probe(client, url, OPENAI, None, 5)).error)
                await asyncio.sleep(0.01 + rng.uniform(-0.002, 0.002))
        return errors

    async def chains(url: str) -> list[list[str | None]]:
        return await asyncio.gather(*(chain(url, number) for number in range(6)))

    with ProbedEngine(after(0.01)) as engine:
        found = asyncio.run(chains(engine.url))
    assert [error for each in found for error in each if error] == []


class Forgetful(ProbedEngine):
    """Well, but its models' list gets the next answer of ``lists``; None: the connection breaks."""

    lists: Iterator[bytes | None] = iter(())

    def other(self, path: str) -> bytes:
        if path != "/v1/models":
            return super().other(path)
        said = next(self.lists, answer("200 OK", self.models))
        if said is None:
            raise OSError
        return said


@pytest.mark.parametrize(
    "said",
    [None, answer("500 Internal Server Error"), answer("503 Service Unavailable"), answer("404 Not Found")],
    ids=["breaks", "500", "503", "404"],
)
def test_one_look_that_fails_ejects_nobody(said: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "REFRESH_S", 0.0)
    with Forgetful() as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 1)
        engine.lists = iter([said, answer("200 OK", engine.models)] * 3)
        until_probed(g, engine, 10)
        assert g.ask(never_lost)


def test_an_engine_that_takes_the_key_no_more_is_ejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "REFRESH_S", 0.0)
    with Forgetful() as engine, gateway(engine, health=QUICK) as g:
        until_probed(g, engine, 1)
        engine.lists = itertools.repeat(answer("401 Unauthorized"))
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EJECTED, 5)
        assert "api_key" in str(g.ask(lambda r: r.gateway.engines["e0"].last_error))
