"""Whose fault a connection is that was not made: this machine's, or the other side's."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.descriptors import Descriptors
from sage_inference.engines.detect import DetectError, detect
from sage_inference.engines.dialects.vllm import VLLM
from sage_inference.engines.lack import LackError, lack
from sage_inference.engines.pool import Address, Pool
from sage_inference.engines.probe import probe
from sage_inference.engines.query import QueryError, QueryNotSentError, ask
from sage_inference.server import new_event_loop
from sage_inference.wire.loop_batch import LoopBatch
from tests.support.rogue import RogueEngine, ok

LOOPS = pytest.mark.parametrize("loops", [new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        try:
            while True:
                stack.enter_context(Path("/dev/null").open())
        except OSError:
            pass
        yield


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.EMFILE, "open files"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOBUFS, "memory"),
        (errno.ENOMEM, "memory"),
        (errno.EADDRNOTAVAIL, "ip_local_port_range"),
        (errno.EAGAIN, "ip_local_port_range"),
    ],
    ids=errno.errorcode.get,
)
def test_what_this_machine_lacks_is_ours_and_is_named(number: int, named: str) -> None:
    found = lack(OSError(number, "not now"))
    assert found is not None
    assert named in found.what
    assert lack(OSError(f"Multiple exceptions: [Errno {number}] no, [Errno {number}] nor this")) is not None
    wrapped = httpx.ConnectError("All connection attempts failed")
    wrapped.__context__ = OSError(number, "not now")
    assert lack(wrapped) is not None
    grouped = OSError("all failed")
    grouped.__cause__ = ExceptionGroup("both", [OSError(number, "a"), OSError(number, "b")])
    assert lack(grouped) is not None


@pytest.mark.parametrize(
    "number",
    [
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPERM,
        errno.EACCES,
    ],
    ids=errno.errorcode.get,
)
def test_what_the_other_side_does_is_not_ours(number: int) -> None:
    assert lack(OSError(number, "no")) is None
    assert (
        lack(OSError(f"Multiple exceptions: [Errno {number}] no, [Errno {errno.EADDRNOTAVAIL}] ::1")) is None
    )
    assert lack(httpx.ConnectError("refused")) is None
    assert lack(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) is None


@LOOPS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-name.invalid"])
def test_a_pool_without_descriptors_names_them_and_calls_nobody_refusing(loops: object, host: str) -> None:
    async def scenario(port: int) -> object:
        outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        pool = Pool(Address(host, port), LoopBatch(asyncio.get_running_loop().call_soon), Descriptors())
        with no_descriptors():
            connecting = pool.connect(outcome.set_result, outcome.set_result)
            found = await outcome
        assert isinstance(found, LackError), found
        assert connecting.lacks is not None
        return found

    with RogueEngine(ok()) as engine, asyncio.Runner(loop_factory=loops) as runner:  # type: ignore[arg-type]
        assert "open files" in str(runner.run(scenario(engine.port)))


@LOOPS
def test_a_pool_waits_for_a_descriptor_that_is_free_in_a_moment(loops: object) -> None:
    async def scenario(port: int) -> None:
        outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        descriptors = Descriptors()
        pool = Pool(Address("127.0.0.1", port), LoopBatch(asyncio.get_running_loop().call_soon), descriptors)
        with no_descriptors():
            connecting = pool.connect(outcome.set_result, outcome.set_result)
            while connecting.lacks is None:
                await asyncio.sleep(0.001)
        found = await outcome
        assert isinstance(found, EngineConnection), found
        assert descriptors.to_engines == 1
        found.discard()
        while descriptors.to_engines:
            await asyncio.sleep(0.001)

    with RogueEngine(ok()) as engine, asyncio.Runner(loop_factory=loops) as runner:  # type: ignore[arg-type]
        runner.run(scenario(engine.port))


@LOOPS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_question_that_could_not_be_sent_tells_nothing_of_the_engine(loops: object, host: str) -> None:
    async def scenario(port: int) -> None:
        url = f"http://{host}:{port}"
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            with no_descriptors():
                with pytest.raises(QueryNotSentError, match="open files"):
                    await ask(client, url, None)
                result = await probe(client, url, VLLM, None, 2)
                assert (result.ok, result.asked) == (False, False)
                with pytest.raises(DetectError, match="open files") as raised:
                    await detect(client, url)
                assert not raised.value.asked

    with RogueEngine(ok()) as engine, asyncio.Runner(loop_factory=loops) as runner:  # type: ignore[arg-type]
        runner.run(scenario(engine.port))


def test_an_engine_that_refuses_is_still_the_one_that_does() -> None:
    async def scenario(port: int) -> None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            with pytest.raises(QueryError) as raised:
                await ask(client, f"http://127.0.0.1:{port}", None)
            assert not isinstance(raised.value, QueryNotSentError)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asyncio.run(scenario(taken.getsockname()[1]))


def test_callers_and_engines_together_never_have_more_than_the_system_grants() -> None:
    callers = 0
    descriptors = Descriptors(lambda: callers)
    descriptors.granted = 400
    for callers in range(0, 400, 7):
        if callers > descriptors.most_callers:
            break
        descriptors.to_engines = max(0, descriptors.to_engines + descriptors.left)
        assert callers + descriptors.to_engines <= descriptors.shared
    assert descriptors.shared < 400
