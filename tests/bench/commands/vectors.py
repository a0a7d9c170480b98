"""``vectors``: what it costs to give a caller 32 vectors of 1,024 numbers as JSON."""

from __future__ import annotations

import argparse
import json
import random
import struct
import time
from collections.abc import Callable

import msgspec

from sage_inference.engines.embeddings import vectors
from sage_inference.engines.embeddings.wire import read_answer
from sage_inference.gateway.embeddings.answer import pieces
from sage_inference.requests.embedding import OPENAI_ROUTE

HELP = "CPU of one answer: numbers cut out unread, against reading and printing them"
_TEXTS, _SIZE = 32, 1024


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeat", type=int, default=20, help="answers of each kind a round; best of 5 rounds"
    )


def run(arguments: argparse.Namespace) -> int:
    rng = random.Random(1)
    numbers = [
        list(
            struct.unpack(
                f"<{_SIZE}f", struct.pack(f"<{_SIZE}f", *(rng.gauss(0, 0.03) for _ in range(_SIZE)))
            )
        )
        for _ in range(_TEXTS)
    ]
    floats = _answer([json.dumps(one, separators=(",", ":")).encode() for one in numbers])
    coded = _answer([bytes(vectors.as_base64(msgspec.json.encode(one))) for one in numbers])

    def passed(body: bytes, base64: bool) -> Callable[[], object]:
        return lambda: pieces(
            OPENAI_ROUTE, "m", read_answer(OPENAI_ROUTE, body, (), _TEXTS).vectors, 1, base64=base64
        )

    rows: dict[str, Callable[[], object]] = {
        "json: read and print": lambda: json.dumps(json.loads(floats)),
        "msgspec: read and print": lambda: msgspec.json.encode(msgspec.json.decode(floats)),
        "ours, numbers as numbers": passed(floats, False),
        "ours, base64 as base64": passed(coded, True),
        "ours, base64 as numbers": passed(coded, False),
        "ours, numbers as base64": passed(floats, True),
    }
    costs = {name: _cost(work, arguments.repeat) for name, work in rows.items()}
    base = costs["msgspec: read and print"]
    for name, cost in costs.items():
        print(f"| {name} | {cost * 1e3:.2f} ms | {cost / base:.2f} × |")
    return 0 if costs["ours, numbers as numbers"] <= 0.5 * base else 1


def _answer(items: list[bytes]) -> bytes:
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (i, item) for i, item in enumerate(items)
    )
    return b'{"object":"list","data":[%b],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}' % data


def _cost(work: Callable[[], object], repeat: int) -> float:
    """CPU seconds a call."""
    work()
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(repeat):
            work()
        best = min(best, (time.process_time() - began) / repeat)
    return best
