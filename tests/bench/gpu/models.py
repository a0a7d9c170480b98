"""Models in their usual shapes without weights, for vLLM's ``--load-format dummy``: configs and one tokenizer.

The words of ``sage inference bench`` are one token each, so that lengths are exact. Every token is plain ASCII text,
so that a random model's first token is the first piece of its stream.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_inference.bench.text import WORDS
from tests.bench.errors import BenchError

VOCABULARY = 152_064
LEARNED = 30_000
_TEXT_BYTES = 12_000_000
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_FIRST_SPECIAL = VOCABULARY - len(_SPECIAL)
_END = VOCABULARY - 1
_LONGEST = 131_072
_CHAT_TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nTools:\n{%- for tool in tools %}\n{{ tool | tojson }}{%- endfor %}<|im_end|>\n"
    "{%- endif %}{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": _LONGEST,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "bos_token_id": _FIRST_SPECIAL,
    "eos_token_id": _END,
    "attention_dropout": 0.0,
}
_XLM = {
    "model_type": "xlm-roberta",
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "vocab_size": VOCABULARY,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "torch_dtype": "float16",
}


def _shape(hidden: int, inner: int, layers: int, heads: int, key_heads: int, *, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "tie_word_embeddings": tied,
    }


MODELS: dict[str, dict[str, Any]] = {
    "qwen7b": _QWEN | _shape(3584, 18944, 28, 28, 4, tied=False),
    "qwen05b": _QWEN | _shape(896, 4864, 24, 14, 2, tied=True),
    "bge-m3": _XLM | {"architectures": ["XLMRobertaModel"]},
    "bge-reranker": _XLM
    | {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    },
}


def write_models(out: Path, text: Path) -> str:
    """Raises ``BenchError`` where the library ``tokenizers`` is missing or there is no text to learn from."""
    tokenizer = _tokenizer(text)
    for name, config in MODELS.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": _SPECIAL[2],
            "pad_token": _SPECIAL[0],
            "bos_token": None,
            "model_max_length": _LONGEST,
            "clean_up_tokenization_spaces": False,
        }
        if config["model_type"] == "qwen2":
            settings["chat_template"] = _CHAT_TEMPLATE
        else:
            settings["unk_token"] = _SPECIAL[0]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return f"{', '.join(MODELS)} in {out}; {len(tokenizer['model']['vocab'])} tokens and {len(_SPECIAL)} special ones"


def _tokenizer(text: Path) -> dict[str, Any]:
    try:
        library: Any = importlib.import_module("tokenizers")  # not among the packages of this project
    except ImportError:
        raise BenchError("the library tokenizers is missing: pip install tokenizers") from None
    texts = list(_texts(text))
    if not texts:
        raise BenchError(f"{text} has no Python files to learn words from")
    learned = library.Tokenizer(library.models.BPE())
    learned.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=LEARNED, initial_alphabet=_ascii_letters(), show_progress=False, min_frequency=2
    )
    spoken = ["\n".join(" " + " ".join(random.Random(n).choices(WORDS, k=400)) for n in range(400))]
    learned.train_from_iterator([*texts, *spoken], trainer)
    document: dict[str, Any] = json.loads(learned.to_str())
    vocabulary = document["model"]["vocab"]
    number = 0
    while len(vocabulary) < _FIRST_SPECIAL:
        vocabulary.setdefault(f"\u0120zq{number:05x}", len(vocabulary))
        number += 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] = [
        {"id": _FIRST_SPECIAL + at, "content": content, **flags} for at, content in enumerate(_SPECIAL)
    ]
    return document


def _texts(folder: Path) -> Iterator[str]:
    size = 0
    for file in sorted(folder.rglob("*.py")):
        text = "".join(char for char in file.read_text(errors="ignore") if char.isascii())
        yield text
        size += len(text)
        if size > _TEXT_BYTES:
            return


def _ascii_letters() -> list[str]:
    """GPT-2's letters of the ASCII bytes: printable bytes are themselves, the others follow from 256 on."""
    others = [byte for byte in range(128) if not 33 <= byte < 127]
    letters = {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [letters.get(byte, chr(byte)) for byte in range(128)]
