"""A fake TEI that ranks texts by the number each ends with, as TEI's source has its answers."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.rogue import Answer, RogueEngine, Wire, ok

_NUMBER = re.compile(r"(\d+)\s*$")
SPENT = ("x-compute-type: gpu+optimized", "x-compute-time: 7")


def score(text: str) -> float:
    found = _NUMBER.search(text)
    return int(found[1]) / 1000 if found else 0.0


def refusal(message: str, error_type: str = "Validation", status: str = "422 Unprocessable Entity") -> Answer:
    return ok(json.dumps({"error": message, "error_type": error_type}), status=status)


def ranked(wire: Wire) -> None:
    """What TEI answers to a good request. ``x-compute-tokens`` is one a text."""
    engine = wire.engine
    assert isinstance(engine, FakeTEI)
    asked = json.loads(wire.body)
    texts = asked["texts"]
    if len(texts) > engine.batch:
        message = f"batch size {len(texts)} > maximum allowed batch size {engine.batch}"
        refusal(message, status=engine.bad_batch)(wire)
        return
    shown = [
        {"index": at, **({"text": text} if asked.get("return_text") else {}), "score": score(text)}
        for at, text in enumerate(texts)
    ]
    shown.sort(key=lambda rank: -rank["score"])
    body = json.dumps(shown, separators=(",", ":"))
    ok(body, *SPENT, f"x-compute-tokens: {len(texts)}")(wire)


class FakeTEI(RogueEngine):
    """``batch`` texts a call; ``reported`` is what ``/info`` says of that, ``info`` what else it says."""

    def __init__(
        self,
        *answers: Answer,
        model: str = "m",
        kind: str = "reranker",
        batch: int = 32,
        reported: int | None = None,
        **info: Any,
    ) -> None:
        self.batch = batch
        self.bad_batch = "422 Unprocessable Entity"
        self._info = {
            "model_id": model,
            "served_model_name": model,
            "model_type": {kind: {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_client_batch_size": reported or batch,
            "max_concurrent_requests": 512,
            "version": "1.9.3",
            **info,
        }
        super().__init__(*(answers or (ranked,)), model=model)

    def _get(self, path: str) -> bytes:
        if path not in ("/info", "/v1/models"):
            return super()._get(path)
        status = "200 OK" if path == "/info" else "404 Not Found"
        body = json.dumps(self._info if path == "/info" else {}).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    @property
    def calls(self) -> list[Any]:
        """The bodies of what it was asked."""
        return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.requests]
