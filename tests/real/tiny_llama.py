"""Writes a small Llama with random weights and a tokenizer of its own: tiny_llama.py DIRECTORY

Runs in the engines' environment (torch, transformers, tokenizers). Four layers, 8192 positions, seed 0: its
words are nonsense, its wire traffic is that of any chat model. Its wide layers cost it some 5 ms a token: a
faster one would outrun vLLM's own API server on few cores, which then holds back its answers.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

POSITIONS = 8192
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
SENTENCES = (
    "hello world",
    "the quick brown fox jumps over the lazy dog",
    "a gateway places each request on an engine",
    "a small model answers chat and completions",
    "texts become vectors",
    "tools are called with json",
)
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, and any token sequence decoded."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + len(SPECIAL) + 80
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL], initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=POSITIONS,
        chat_template=TEMPLATE,
    )


def model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=8192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            tie_word_embeddings=False,
        )
    )


def main(directory: str) -> None:
    words = tokenizer()
    words.save_pretrained(directory)
    model(len(words)).save_pretrained(directory)


if __name__ == "__main__":
    main(sys.argv[1])
