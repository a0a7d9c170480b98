"""The routes of sound: transcriptions and translations name their model in a form, speech in JSON."""

from __future__ import annotations

import os

import httpx
import pytest

from sage_inference.config.settings import InstanceSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, chunk, ok, raw

TEXTS = ("/v1/audio/transcriptions", "/v1/audio/translations")
SPEECH = "/v1/audio/speech"
SOUND = bytes(range(256)) * 40
CLIENT = httpx.Client(trust_env=False, verify=False, timeout=10)


def say(g: InProcess, model: str | None = "m", **fields: object) -> httpx.Response:
    named = {} if model is None else {"model": model}
    return CLIENT.post(g.url + SPEECH, json={**named, "input": "Good day", "voice": "alloy", **fields})


def form(**fields: bytes) -> bytes:
    parts = [
        b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in fields.items()
    ]
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize("path", TEXTS)
def test_a_form_names_the_model_and_goes_through_byte_for_byte(path: str) -> None:
    with RogueEngine(ok(b'{"text":"hi"}'), routes=TEXTS) as engine:
        with gateway(engine, aliases={"whisper-1": "m"}) as g:
            for place, model in enumerate((b"m", b"whisper-1")):
                body = form(language=b"de", model=model, file=SOUND)
                headers = {"content-type": "multipart/form-data; boundary=x"}
                answer = CLIENT.post(g.url + path, content=body, headers=headers)
                assert (answer.status_code, answer.json()) == (200, {"text": "hi"})
                assert engine.requests[place].startswith(f"POST {path} ".encode())
                assert engine.requests[place].endswith(b"\r\n\r\n" + body.replace(b"whisper-1", b"m"))


def test_speech_is_relayed_as_it_streams() -> None:
    pieces = [os.urandom(size) for size in (10, 5000, 1, 70_000)]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
    engine = RogueEngine(raw(head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"), routes=[SPEECH])
    with engine, gateway(engine, aliases={"tts-1": "m"}) as g:
        for model in ("m", "tts-1", None):
            answer = say(g, model, stream_format="audio")
            assert answer.headers["content-type"] == "audio/mpeg"
            assert answer.content == b"".join(pieces)
            assert b'"model":"m"' in engine.requests[-1]


def test_speech_in_one_piece_and_as_events() -> None:
    events = b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n'
    whole = ok(SOUND, "x-voice: alloy")
    streamed = raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunk(events)
        + b"0\r\n\r\n"
    )
    with RogueEngine(whole, streamed, routes=[SPEECH]) as engine, gateway(engine) as g:
        answer = say(g)
        assert (answer.content, answer.headers["x-voice"]) == (SOUND, "alloy")
        assert say(g, stream_format="sse").content == events


def test_speech_without_a_text_or_with_an_unknown_model_is_refused() -> None:
    with RogueEngine(ok(), routes=[SPEECH]) as engine, gateway(engine) as g:
        missing = CLIENT.post(g.url + SPEECH, json={"model": "m", "voice": "alloy"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "input")
        assert say(g, "other").status_code == 404
        assert engine.requests == []


def test_the_engines_error_is_passed_on() -> None:
    error = b'{"error":{"message":"no such voice","type":"invalid_request_error"}}'
    with RogueEngine(ok(error, status="400 Bad Request"), routes=[SPEECH]) as engine, gateway(engine) as g:
        assert (say(g).status_code, say(g).content) == (400, error)


def test_engines_that_do_not_report_their_routes_are_tried_for_sound() -> None:
    with RogueEngine(ok(b"sound")) as engine, gateway(engine) as g:
        assert say(g).content == b"sound"
        (card,) = CLIENT.get(f"{g.url}/v1/models").json()["data"]
        assert "speech" not in card["capabilities"]


def test_what_an_engine_of_sound_can_do_is_listed() -> None:
    with RogueEngine(ok(), routes=TEXTS) as hears, RogueEngine(ok(), model="s", routes=[SPEECH]) as speaks:
        found = [InstanceSettings(url=engine.url, name=engine.model) for engine in (hears, speaks)]
        with gateway(*found) as g:
            g.until(lambda r: all(e.detected for e in r.gateway.engines.values()))
            cards = {card["id"]: card for card in CLIENT.get(f"{g.url}/v1/models").json()["data"]}
            assert cards["m"]["capabilities"] == ["transcription", "translation"]
            assert (cards["s"]["type"], cards["s"]["capabilities"]) == ("speech", ["speech"])
