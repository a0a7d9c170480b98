"""Writes a small Llama with random weights, and a tokenizer of bytes, as a GGUF file: tiny_gguf.py FILE

No package is needed. One layer, 512 positions, seed 0: its words are nonsense.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from array import array
from pathlib import Path
from typing import Any

WORDS = "a gateway places each request on an engine where small models answer chat and texts become vectors".split()
WIDTH, HIDDEN, HEADS, POSITIONS = 64, 128, 4, 512
_U32, _F32, _BOOL, _TEXT, _ARRAY = 4, 6, 7, 8, 9
_I32 = 5
_ALIGNMENT = 32


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, given: Any) -> bytes:
    return (
        text(given)
        if kind == _TEXT
        else struct.pack({_U32: "<I", _F32: "<f", _BOOL: "<?", _I32: "<i"}[kind], given)
    )


def entry(key: str, kind: int, given: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, given)


def entries(key: str, kind: int, given: list[Any]) -> bytes:
    head = text(key) + struct.pack("<IIQ", _ARRAY, kind, len(given))
    return head + b"".join(value(kind, each) for each in given)


def tokens() -> tuple[list[str], list[int]]:
    """The tokens, and the type of each: unknown, control, byte, or one of ``WORDS``, which the model writes."""
    read = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*read, *(f"\u2581{word}" for word in WORDS)], [2, 3, 3, *[6] * 256, *[1] * len(WORDS)]


def facts() -> list[bytes]:
    words, types = tokens()
    return [
        entry("general.architecture", _TEXT, "llama"),
        entry("general.name", _TEXT, "tiny-llama"),
        entry("llama.context_length", _U32, POSITIONS),
        entry("llama.embedding_length", _U32, WIDTH),
        entry("llama.block_count", _U32, 1),
        entry("llama.feed_forward_length", _U32, HIDDEN),
        entry("llama.attention.head_count", _U32, HEADS),
        entry("llama.attention.head_count_kv", _U32, HEADS),
        entry("llama.attention.layer_norm_rms_epsilon", _F32, 1e-5),
        entry("llama.rope.dimension_count", _U32, WIDTH // HEADS),
        entry("llama.vocab_size", _U32, len(words)),
        entry("llama.pooling_type", _U32, 1),  # the mean, for vectors
        entry("tokenizer.ggml.model", _TEXT, "llama"),
        entries("tokenizer.ggml.tokens", _TEXT, words),
        entries("tokenizer.ggml.scores", _F32, [0.0] * len(words)),
        entries("tokenizer.ggml.token_type", _I32, types),
        entry("tokenizer.ggml.bos_token_id", _U32, 1),
        entry("tokenizer.ggml.eos_token_id", _U32, 2),
        entry("tokenizer.ggml.unknown_token_id", _U32, 0),
    ]


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors, with their shapes in GGUF's order: the fastest dimension first."""
    vocabulary = len(tokens()[0])
    block = "blk.0."
    return {
        "token_embd.weight": (WIDTH, vocabulary),
        "output_norm.weight": (WIDTH,),
        "output.weight": (WIDTH, vocabulary),
        block + "attn_norm.weight": (WIDTH,),
        **{block + f"attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        block + "ffn_norm.weight": (WIDTH,),
        block + "ffn_gate.weight": (WIDTH, HIDDEN),
        block + "ffn_up.weight": (WIDTH, HIDDEN),
        block + "ffn_down.weight": (HIDDEN, WIDTH),
    }


def main(path: str) -> None:
    draw = random.Random(0)
    metadata, head, data = facts(), b"", b""
    for name, shape in shapes().items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        size = math.prod(shape)
        weights = [1.0] * size if len(shape) == 1 else [draw.gauss(0, 0.05) for _ in range(size)]
        if name == "output.weight":  # nothing but words, because a stray byte is no text
            silent = WIDTH * (len(tokens()[0]) - len(WORDS))
            weights[:silent] = [0.0] * silent
        data += array("f", weights).tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(shapes()), len(metadata)) + b"".join(metadata) + head
    Path(path).write_bytes(begin + bytes(-len(begin) % _ALIGNMENT) + data)


if __name__ == "__main__":
    main(sys.argv[1])
