"""Streams: pieces as they come, and what happens to the engine when nobody wants the rest."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest

import sage_inference as si
from tests.client.faces import Clients
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, chunk, raw, sse
from tests.support.simulators import SimulatedEngine, simulated_engine


def delta(text: str, **more: Any) -> str:
    return json.dumps({"model": "m", "choices": [{"index": 0, "delta": {"content": text}, **more}]})


END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def test_pieces_come_as_the_engine_sends_them(clients: Clients) -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse(delta("one")))
        wire.engine.go.wait(20)
        wire.send(chunk(f"data: {delta('two', finish_reason='stop')}\n\n".encode()) + END)

    with RogueEngine(answer) as engine:
        stream = clients(engine.url).chat("hi", stream=True)
        assert next(stream) == "one"
        engine.go.set()
        assert list(stream) == ["two"]
        assert (stream.result.text, stream.result.finish_reason) == ("onetwo", "stop")
        assert json.loads(engine.requests[0].partition(b"\r\n\r\n")[2])["stream"] is True


def test_usage_is_in_the_result_where_it_was_asked_for(clients: Clients, vllm: SimulatedEngine) -> None:
    stream = clients(vllm.url).chat("hi", stream=True, max_tokens=4, stream_options={"include_usage": True})
    assert "".join(stream) == stream.result.text
    assert stream.result.usage["completion_tokens"] == 4
    assert stream.result.model == "simulated-llm"


def test_generate_streams_too(clients: Clients, vllm: SimulatedEngine) -> None:
    stream = clients(vllm.url).generate("hi", stream=True, max_tokens=4)
    assert "".join(stream) == clients(vllm.url).generate("hi", max_tokens=4)


def test_a_connection_serves_again_after_a_stream(clients: Clients) -> None:
    with RogueEngine(raw(sse(delta("a", finish_reason="stop")) + END)) as engine:
        client = clients(engine.url)
        for _ in range(3):
            assert list(client.chat("hi", stream=True)) == ["a"]
        assert engine.connections == 1


def test_closing_a_stream_cancels_it_in_the_engine(clients: Clients) -> None:
    with RogueEngine(raw(sse(delta("a")), then="silent")) as engine:
        stream = clients(engine.url).chat("hi", stream=True)
        assert next(stream) == "a"
        stream.close()
        engine.left.get(timeout=10)


def test_letting_go_of_a_stream_cancels_it_too(clients: Clients) -> None:
    with RogueEngine(raw(sse(delta("a")), then="silent")) as engine:
        client = clients(engine.url)
        stream = client.chat("hi", stream=True)  # not even begun
        del stream
        gc.collect()
        if clients.kind == "async":
            clients._runner.run(_turn())
        engine.left.get(timeout=10)


async def _turn() -> None:
    import asyncio

    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "sent", [sse(delta("a")), sse(delta("a")) + b"0\r\n\r\n"], ids=["cut", "ended early"]
)
def test_a_stream_that_breaks_off_is_an_error(clients: Clients, sent: bytes) -> None:
    with RogueEngine(raw(sent, then="close")) as engine:
        stream = clients(engine.url).chat("hi", stream=True)
        assert next(stream) == "a"
        with pytest.raises(si.SageInferenceError):
            next(stream)


def test_an_error_told_in_the_stream_is_raised_with_the_instance(clients: Clients) -> None:
    with RogueEngine(raw(sse(delta("a")), then="close")) as engine, gateway(engine) as g:
        stream = clients(g.url).chat("hi", stream=True)
        assert next(stream) == "a"
        with pytest.raises(si.EngineError, match="before its answer ended") as caught:
            next(stream)
        assert caught.value.instance == "e0"


def test_a_refused_stream_raises_at_once(clients: Clients, vllm: SimulatedEngine) -> None:
    with pytest.raises(si.NotFoundError, match="other"):
        clients(vllm.url).chat("hi", stream=True, model="other")


def test_silence_in_a_stream_is_a_timeout(clients: Clients) -> None:
    with RogueEngine(raw(sse(delta("a")), then="silent")) as engine:
        stream = clients(engine.url).chat("hi", stream=True, timeout=0.3)
        assert next(stream) == "a"
        with pytest.raises(si.InferenceTimeoutError):
            next(stream)
        engine.left.get(timeout=10)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_events_are_read_wherever_they_are_cut(cut: int) -> None:
    from sage_inference.client.sse import EventReader

    wire = b": hello\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata: more\n\ndata: [DONE]\n\n"
    reader = EventReader()
    found = [e for at in range(0, len(wire), cut) for e in reader.feed(wire[at : at + cut])]
    assert found == [(b"one", b""), (b"two\nmore", b"x"), (b"[DONE]", b"")]


@pytest.mark.parametrize("through", ["engine", "gateway", "control plane"])
def test_32_dropped_streams_reach_the_engine_within_200_ms_and_leave_nothing(
    clients: Clients, through: str
) -> None:
    with simulated_engine("vllm") as engine, gateway(engine) as g:
        if through == "control plane":
            client = clients.control_plane(
                [{"host": engine.host, "port": engine.port}], scheduling_policy="least_loaded"
            )
        else:
            client = clients(engine.url if through == "engine" else g.url)
        client.chat("warm", max_tokens=1)
        took: list[float] = []
        while not took or min(took) > 0.2 + 0.3:  # the wait is asked over HTTP, on a machine that is busy
            assert len(took) < 3, took
            streams = [client.chat("hi", stream=True, max_tokens=4000, ignore_eos=True) for _ in range(32)]
            for stream in streams:
                next(stream)
            since = time.monotonic()
            for stream in streams:
                stream.close()
            engine.wait(disconnects=32 * (len(took) + 1), timeout_s=5)
            took.append(time.monotonic() - since)
        engine.wait(running=0, timeout_s=5)
