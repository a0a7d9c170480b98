"""``/v1/responses``, plain and streamed: one message of text."""

from __future__ import annotations

import time
from typing import Any

from sage_inference.simulator.answers import answer, friendly, seed_of
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import Chat, request_id
from sage_inference.simulator.vllm.core import Choice, Core, random_id, usage_of
from sage_inference.simulator.vllm.params import read_params
from sage_inference.simulator.vllm.schema import Fields, read


class Responses:
    def __init__(self, core: Core, chat: Chat) -> None:
        self._core = core
        self._chat = chat

    async def respond(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        given = fields.required("input")
        params = read_params(fields, max_tokens=("max_output_tokens",), chat_logprobs=False)
        model = self._core.check_model(fields.text("model"))
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        instructions = fields.get("instructions")
        if instructions:
            messages = [{"role": "system", "content": instructions}, *messages]
        prompt = self._chat.prompt(messages if isinstance(messages, list) else [])
        wish = params.wish(self._core.room(prompt, params))
        seed = seed_of(prompt.text, 0)
        said = answer(friendly(prompt.said, seed), seed, wish)
        writer = _Writer(f"resp_{request_id(request)}", model, fields, params.max_tokens)
        with self._core.generating([(prompt, said)]) as (choice,):
            if params.stream:
                await self._stream(writer, choice, reply)
            else:
                await self._core.all_done([choice])
                await reply.whole(200, frames.encode(writer.document(choice)))

    async def _stream(self, writer: _Writer, choice: Choice, reply: Reply) -> None:
        await reply.begin()
        for event in writer.created():
            await reply.event(event)
        await self._core.first_token([choice])
        for event in writer.opening():
            await reply.event(event)
        async for _, number in self._core.tokens([choice]):
            await reply.event(writer.delta(choice.answer.parts[number]))
        for event in writer.closing(choice):
            await reply.event(event)
        await reply.end()


class _Writer:
    """One response, as a document or in numbered events."""

    def __init__(self, id_: str, model: str, fields: Fields, max_tokens: int | None) -> None:
        self._id = id_
        self._model = model
        self._fields = fields
        self._max_tokens = max_tokens
        self._created = int(time.time())
        self._item = f"msg_{random_id()}"
        self._number = -1

    def document(self, choice: Choice | None) -> dict[str, Any]:
        """``None``: nothing is generated yet."""
        cut = choice is not None and choice.answer.finish_reason == "length"
        status = "in_progress" if choice is None else "incomplete" if cut else "completed"
        return {
            "id": self._id,
            "created_at": self._created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": self._fields.get("instructions"),
            "metadata": self._fields.get("metadata"),
            "model": self._model,
            "object": "response",
            "output": [] if choice is None else [self._message(choice)],
            "parallel_tool_calls": True,
            "temperature": self._given("temperature", 1.0),
            "tool_choice": "none",
            "tools": [],
            "top_p": self._given("top_p", 1.0),
            "background": False,
            "max_output_tokens": self._max_tokens,
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": None if choice is None else _usage(choice),
            "user": self._fields.get("user"),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def created(self) -> list[bytes]:
        return [
            self._event("response.created", {"response": self.document(None)}),
            self._event("response.in_progress", {"response": self.document(None)}),
        ]

    def opening(self) -> list[bytes]:
        item: dict[str, Any] = {
            "id": self._item,
            "content": [],
            "role": "assistant",
            "status": "in_progress",
            "type": "message",
            "phase": None,
        }
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        place = {"content_index": 0, "item_id": self._item, "output_index": 0}
        return [
            self._event("response.output_item.added", {"item": item, "output_index": 0}),
            self._event("response.content_part.added", {**place, "part": part}),
        ]

    def delta(self, text: str) -> bytes:
        place = {"content_index": 0, "delta": text, "item_id": self._item, "logprobs": [], "output_index": 0}
        return self._event("response.output_text.delta", place)

    def closing(self, choice: Choice) -> list[bytes]:
        message = self._message(choice)
        place = {"content_index": 0, "item_id": self._item, "output_index": 0}
        text = {"logprobs": [], "text": choice.answer.text}
        return [
            self._event("response.output_text.done", {**place, **text}),
            self._event("response.content_part.done", {**place, "part": message["content"][0]}),
            self._event("response.output_item.done", {"item": message, "output_index": 0}),
            self._event("response.completed", {"response": self.document(choice)}),
        ]

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._number += 1
        return frames.named_event({**fields, "sequence_number": self._number, "type": kind})

    def _given(self, name: str, default: float) -> float:
        value = self._fields.number(name)
        return default if value is None else value

    def _message(self, choice: Choice) -> dict[str, Any]:
        part: dict[str, Any] = {
            "annotations": [],
            "text": choice.answer.text,
            "type": "output_text",
            "logprobs": None,
        }
        return {
            "id": self._item,
            "content": [part],
            "role": "assistant",
            "status": "completed",
            "type": "message",
            "phase": None,
        }


def _usage(choice: Choice) -> dict[str, Any]:
    prompt, produced, cached = usage_of([choice])
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": produced,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": prompt + produced,
    }
