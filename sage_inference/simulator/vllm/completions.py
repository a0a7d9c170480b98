"""``/v1/completions``: texts, lists of texts and token ids, with echo and logprobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sage_inference.simulator import tokens
from sage_inference.simulator.answers import Answer, Wish, answer, friendly, seed_of
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import constrained_text, request_id
from sage_inference.simulator.vllm.core import Choice, Core, Prompt, fail_stream
from sage_inference.simulator.vllm.errors import ApiError
from sage_inference.simulator.vllm.params import Params, read_params
from sage_inference.simulator.vllm.schema import read


class Completions:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def complete(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        transfer = fields.mapping("kv_transfer_params")
        params = read_params(fields, max_tokens=("max_tokens",), chat_logprobs=False)
        model = self._core.check_model(fields.text("model"))
        if fields.get("suffix"):
            message = "suffix is only supported for models with FIM completion rendering"
            raise ApiError(message, param="suffix")
        prompts = [Prompt(text, text) for text in _texts(fields.get("prompt"))]
        forced, echo = constrained_text(fields), fields.flag("echo")
        asked = [
            (prompt, _answer(prompt, variant, params, params.wish(self._core.room(prompt, params)), forced))
            for prompt in prompts
            for variant in range(params.n)
        ]
        writer = _Writer(f"cmpl-{request_id(request)}", model, params, echo, self._core.fingerprint)
        try:
            fetched = await self._core.fetch(transfer, asked)
        except ApiError as error:
            if not params.stream:
                raise
            await fail_stream(reply, error)
            return
        with self._core.generating(asked, fetched) as choices:
            if params.stream:
                await self._stream(writer, choices, reply)
            else:
                await self._core.all_done(choices)
                offer = self._core.offer(transfer, f"{writer.id}-0", choices)
                await reply.whole(200, frames.encode(writer.document(choices, offer)))

    async def _stream(self, writer: _Writer, choices: Sequence[Choice], reply: Reply) -> None:
        await reply.begin()
        async for choice, number in self._core.tokens(choices):
            await reply.event(writer.chunk(choice, number))
        if writer.params.usage:
            await reply.event(writer.usage(choices))
        await reply.event(frames.DONE)
        await reply.end()


class _Writer:
    """One request's answer, as a document or in chunks."""

    def __init__(self, id_: str, model: str, params: Params, echo: bool, fingerprint: str) -> None:
        self.id = id_
        self.params = params
        self._echo = echo
        self._fingerprint = fingerprint
        created = int(time.time())
        self._head = {"id": id_, "object": "text_completion", "created": created, "model": model}

    def document(self, choices: Sequence[Choice], offer: dict[str, Any] | None) -> dict[str, Any]:
        return {
            **self._head,
            "choices": [self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": frames.usage(choices, chat=False),
            "kv_transfer_params": offer,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def chunk(self, choice: Choice, number: int) -> bytes:
        last = number + 1 == len(choice.answer.parts)
        parts = [choice.answer.parts[number]]
        if self._echo and number == 0:
            parts = [*choice.prompt.parts, *parts]
        offset = sum(map(len, choice.answer.parts[:number])) if self.params.logprobs is not None else 0
        body = {
            "index": choice.index,
            "text": "".join(parts),
            "logprobs": self._logprobs(parts, number, offset),
            "finish_reason": choice.answer.finish_reason if last else None,
            "stop_reason": choice.answer.stop if last else None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        document: dict[str, Any] = {**self._head, "choices": [body]}
        if self.params.usage and self.params.running_usage:
            document["usage"] = frames.running_usage(choice.prompt.tokens, number + 1)
        if last and not self.params.usage:
            document["system_fingerprint"] = self._fingerprint
        return frames.event(document)

    def usage(self, choices: Sequence[Choice]) -> bytes:
        usage = frames.last_usage(choices, chat=False)
        return frames.event(
            {**self._head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint}
        )

    def _choice(self, choice: Choice) -> dict[str, Any]:
        parts = [*(choice.prompt.parts if self._echo else ()), *choice.answer.parts]
        alternatives = self.params.logprobs
        told = self._echo and alternatives is not None
        return {
            "index": choice.index,
            "text": "".join(parts),
            "logprobs": self._logprobs(parts, 0, 0),
            "finish_reason": choice.answer.finish_reason,
            "stop_reason": choice.answer.stop,
            "token_ids": None,
            "prompt_logprobs": frames.prompt_logprobs(choice.prompt.parts, alternatives or 0)
            if told
            else None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    def _logprobs(self, parts: Sequence[str], start: int, offset: int) -> dict[str, Any] | None:
        if self.params.logprobs is None:
            return None
        first_unknown = self._echo and start == 0
        return frames.completion_logprobs(
            parts, start, offset, self.params.logprobs, first_unknown=first_unknown
        )


def _texts(prompt: Any) -> list[str]:
    """The prompts in a text, texts, token ids or lists of token ids. Raises ``ApiError``."""
    if isinstance(prompt, str):
        prompts = [prompt]
    elif isinstance(prompt, list) and all(isinstance(one, int) for one in prompt):
        prompts = [_from_ids(prompt)] if prompt else []
    elif isinstance(prompt, list):
        prompts = [one if isinstance(one, str) else _from_ids(one) for one in prompt]
    else:
        prompts = []
    if not prompts or not all(prompts):
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise ApiError(message, param="prompt")
    return prompts


def _from_ids(ids: Any) -> str:
    # Special ids are kept, so that every given id counts as one token.
    valid = [one for one in ids if isinstance(one, int) and one >= 0] if isinstance(ids, list) else []
    return "".join(tokens.piece_of(one) or tokens.BEGIN for one in valid)


def _answer(prompt: Prompt, variant: int, params: Params, wish: Wish, forced: str | None) -> Answer:
    seed = seed_of(prompt.text, variant + params.seed)
    if forced is not None:
        return answer(forced, seed, Wish(wish.most, wish.max_tokens))
    return answer(f" {friendly(prompt.quoted, seed)}", seed, wish)
