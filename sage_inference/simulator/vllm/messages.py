"""``/v1/messages``, plain and streamed, and its token count.

The plain answer follows a recorded one. The events of a stream follow the protocol's documentation.
"""

from __future__ import annotations

from typing import Any

from sage_inference.simulator.answers import answer, friendly, seed_of
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import Chat, request_id
from sage_inference.simulator.vllm.core import Choice, Core, Prompt, usage_of
from sage_inference.simulator.vllm.params import read_params
from sage_inference.simulator.vllm.schema import Fields, read


class Messages:
    def __init__(self, core: Core, chat: Chat) -> None:
        self._core = core
        self._chat = chat

    async def create(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        messages = fields.required_list("messages")
        fields.required("max_tokens")
        params = read_params(fields, max_tokens=("max_tokens",), chat_logprobs=False)
        model = self._core.check_model(fields.text("model"))
        prompt = self._prompt(fields, messages)
        wish = params.wish(self._core.room(prompt, params))
        seed = seed_of(prompt.text, 0)
        answered = answer(friendly(prompt.quoted, seed), seed, wish)
        id_ = f"chatcmpl-{request_id(request)}"
        with self._core.generating([(prompt, answered)]) as (choice,):
            if params.stream:
                await self._stream(id_, model, choice, reply)
            else:
                await self._core.all_done([choice])
                await reply.whole(200, frames.encode(_message(id_, model, choice)))

    async def count_tokens(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        messages = fields.required_list("messages")
        fields.check()
        self._core.check_model(fields.text("model"))
        tokens = self._prompt(fields, messages).tokens
        await reply.whole(200, frames.encode({"input_tokens": tokens, "context_management": None}))

    def _prompt(self, fields: Fields, messages: list[Any]) -> Prompt:
        system = fields.get("system")
        lead = [{"role": "system", "content": system}] if system else []
        return self._chat.prompt([*lead, *messages], fields.get("tools") or [])

    async def _stream(self, id_: str, model: str, choice: Choice, reply: Reply) -> None:
        await reply.begin()
        await self._core.first_token([choice])
        opened = {**_message(id_, model, choice), "content": [], "stop_reason": None}
        await reply.event(frames.named_event({"type": "message_start", "message": opened}))
        block = {"type": "text", "text": ""}
        await reply.event(
            frames.named_event({"type": "content_block_start", "index": 0, "content_block": block})
        )
        async for _, number in self._core.tokens([choice]):
            delta = {"type": "text_delta", "text": choice.answer.parts[number]}
            await reply.event(frames.named_event({"type": "content_block_delta", "index": 0, "delta": delta}))
        await reply.event(frames.named_event({"type": "content_block_stop", "index": 0}))
        ended = {"stop_reason": _stop_reason(choice), "stop_sequence": choice.answer.stop}
        await reply.event(
            frames.named_event({"type": "message_delta", "delta": ended, "usage": _usage(choice)})
        )
        await reply.event(frames.named_event({"type": "message_stop"}))
        await reply.event(frames.DONE)
        await reply.end()


def _stop_reason(choice: Choice) -> str | None:
    """None for an answer that the engine aborted: vLLM has no word for it here."""
    if choice.given_up:
        return None
    if choice.answer.stop is not None:
        return "stop_sequence"
    return "max_tokens" if choice.answer.finish_reason == "length" else "end_turn"


def _usage(choice: Choice) -> dict[str, int]:
    prompt, produced, cached = usage_of([choice])
    return {
        "input_tokens": prompt,
        "output_tokens": produced,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def _message(id_: str, model: str, choice: Choice) -> dict[str, Any]:
    """Without a stop reason where there is none, because vLLM leaves out what is null."""
    reason = _stop_reason(choice)
    return {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": choice.answer.text}],
        "model": model,
        **({} if reason is None else {"stop_reason": reason}),
        "usage": _usage(choice),
    }
