"""The common part of the simulated vLLM's generating routes, from prompts to choices with their tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any
from zlib import crc32

from sage_inference.simulator.answers import Answer
from sage_inference.simulator.exchange import Reply
from sage_inference.simulator.llm import LLM, Generation
from sage_inference.simulator.prefix_cache import block_keys
from sage_inference.simulator.tokens import pieces
from sage_inference.simulator.vllm.errors import ApiError, invalid, unknown_model
from sage_inference.simulator.vllm.params import Params
from sage_inference.simulator.vllm.transfer import KVTransfer

VERSION = "0.32.0"
_YIELD_EVERY = 16


@dataclass(slots=True)
class Prompt:
    """A prompt. ``quoted`` is the text that the answer refers to. ``images`` are tokens without text."""

    text: str
    quoted: str = ""
    images: int = 0
    parts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = pieces(self.text)

    @property
    def tokens(self) -> int:
        return len(self.parts) + self.images


@dataclass(slots=True, eq=False)
class Choice:
    index: int
    prompt: Prompt
    answer: Answer
    generation: Generation
    given_up: bool = False

    @property
    def produced(self) -> int:
        """The number of tokens produced."""
        return self.generation.produced - self.given_up


@dataclass(slots=True)
class Core:
    """The decoder and the model's name. ``instant``: nothing takes time, so streams must yield by themselves.

    ``transfer`` is None if no KV connector is configured. ``kv_transfer_params`` then have no effect.
    """

    llm: LLM
    models: tuple[str, ...]
    max_model_len: int
    instant: bool
    on_finish: Callable[[Choice, float], None] = lambda choice, seconds: None
    on_abort: Callable[[], None] = lambda: None
    transfer: KVTransfer | None = None
    active: list[Choice] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"vllm-{VERSION}+simulated-{crc32(self.models[0].encode()):08x}"

    def check_model(self, name: str | None, *, aliases: bool = True) -> str:
        """The model that serves ``name``, or the first one if no name is given. Raises ``ApiError``."""
        if not name:
            return self.models[0]
        if name not in self.models:
            raise unknown_model(name, self.models if aliases else None)
        return name

    def room(self, prompt: Prompt, params: Params) -> int:
        """Tokens that ``prompt`` leaves for its answer. Raises ``ApiError`` if that is too few."""
        limit = self.max_model_len
        wanted = params.max_tokens
        if wanted is not None and wanted > limit:
            message = f"max_tokens={wanted} cannot be greater than max_model_len={limit}."
            raise invalid("max_tokens", f"{message} Please request fewer output tokens.", wanted)
        lead = f"This model's maximum context length is {limit} tokens. However, "
        if prompt.tokens >= limit:
            # As in vLLM, which tokenizes no further than one token past the limit.
            message = (
                f"{lead}your prompt contains at least {limit + 1} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt."
            )
            raise invalid("input_tokens", message, limit + 1)
        if wanted is not None and prompt.tokens + wanted > limit:
            message = (
                f"{lead}you requested {wanted} output tokens and your prompt contains at least {prompt.tokens} "
                f"input tokens, for a total of at least {prompt.tokens + wanted} tokens. Please reduce the "
                "length of the input prompt or the number of requested output tokens."
            )
            raise invalid("input_tokens", message, prompt.tokens)
        return limit - prompt.tokens

    async def fetch(self, params: Mapping[str, Any] | None, asked: Sequence[tuple[Prompt, Answer]]) -> int:
        """The number of prompt tokens that another engine transfers, see ``KVTransfer.fetch``. Raises ``ApiError``."""
        return await self.transfer.fetch(params) if self.transfer and len(asked) == 1 else 0

    def offer(
        self, params: Mapping[str, Any] | None, request_id: str, choices: Sequence[Choice]
    ) -> dict[str, Any] | None:
        """The ``kv_transfer_params`` of an answer that is not streamed."""
        if self.transfer is None or len(choices) != 1:
            return None
        return self.transfer.offer(params, request_id, choices[0].prompt.tokens)

    @contextmanager
    def generating(self, asked: Sequence[tuple[Prompt, Answer]], fetched: int = 0) -> Iterator[list[Choice]]:
        """The choices while they are generated. Unfinished ones are aborted at the end of the block."""
        keys = {id(prompt): block_keys(prompt.parts, self.llm.limits.block_size) for prompt, _ in asked}
        choices = [
            Choice(
                i,
                prompt,
                answer,
                self.llm.submit(prompt.tokens, len(answer.parts), keys[id(prompt)], fetched),
            )
            for i, (prompt, answer) in enumerate(asked)
        ]
        began = time.monotonic()
        self.active += choices
        try:
            yield choices
        finally:
            for choice in choices:
                self.active.remove(choice)
                if choice.generation.done:
                    self.on_finish(choice, time.monotonic() - began)
                else:
                    self.llm.abort(choice.generation)
                    self.on_abort()

    def give_up(self) -> None:
        """End all running choices as a stopping vLLM does: early, properly, and with the finish reason abort."""
        for choice in self.active:
            if not choice.generation.done:
                made = choice.answer.parts[: choice.generation.produced]
                choice.answer, choice.given_up = Answer((*made, ""), "abort"), True
                self.llm.give_up(choice.generation)

    async def all_done(self, choices: Sequence[Choice]) -> None:
        for choice in choices:
            await choice.generation.reach(choice.generation.output)

    async def first_token(self, choices: Sequence[Choice]) -> None:
        """Wait for the first token. A stream's head is sent at once, but its first event comes with that token."""
        await choices[0].generation.reach(1)

    async def tokens(self, choices: Sequence[Choice]) -> AsyncIterator[tuple[Choice, int]]:
        """Every token as it is produced: the choice, and the token's number in it."""
        for number in range(max(choice.generation.output for choice in choices)):
            if self.instant and number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            for choice in choices:
                if number < choice.generation.output:
                    await choice.generation.reach(number + 1)
                    yield choice, number


def usage_of(choices: Sequence[Choice]) -> tuple[int, int, int]:
    """Prompt tokens (each prompt counts once), produced tokens, and cached prompt tokens."""
    prompts = {id(choice.prompt): choice for choice in choices}
    return (
        sum(choice.prompt.tokens for choice in prompts.values()),
        sum(choice.produced for choice in choices),
        sum(choice.generation.cached for choice in prompts.values()),
    )


async def fail_stream(reply: Reply, error: ApiError) -> None:
    """Send an error as an event, then a regular end, because the stream's head was sent already."""
    await reply.begin()
    await reply.event(b"data: %b\n\n" % error.body())
    await reply.event(b"data: [DONE]\n\n")
    await reply.end()


def random_id(size: int = 16) -> str:
    return f"{getrandbits(size * 4):0{size}x}"


def content_of(content: Any, *, text_only: str | None) -> tuple[str, int]:
    """A message's text, and the number of its images, audios and videos. ``text_only`` names a model that takes none."""
    if isinstance(content, str):
        return content, 0
    texts: list[str] = []
    images = 0
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict):
            images += 1
    if images and text_only:
        raise ApiError(f"{text_only} is not a multimodal model")
    return "\n".join(texts), images
