"""``/v1/responses``, plain, streamed and in the background. A response is one message of text."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from sage_inference.simulator.answers import Answer, answer, friendly, seed_of
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.chat import Chat
from sage_inference.simulator.vllm.core import Choice, Core, Prompt, random_id, usage_of
from sage_inference.simulator.vllm.params import read_params
from sage_inference.simulator.vllm.response_store import ResponseStore, Stored
from sage_inference.simulator.vllm.schema import Fields, read

_PREFIX = "/v1/responses/"


class Responses:
    def __init__(self, core: Core, chat: Chat, store: ResponseStore) -> None:
        self._core = core
        self._chat = chat
        self._store = store

    async def respond(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        given = fields.required("input")
        params = read_params(fields, max_tokens=("max_output_tokens",), chat_logprobs=False)
        model = self._core.check_model(fields.text("model"))
        background, stores = fields.flag("background"), fields.get("store") is not False
        self._store.check(background=background, store=stores)
        messages = self._messages(fields, given)
        prompt = self._chat.prompt(messages)
        wish = params.wish(self._core.room(prompt, params))
        seed = seed_of(prompt.text, 0)
        answered = answer(friendly(prompt.quoted, seed), seed, wish)
        # Unlike a chat's id, this one does not have the caller's x-request-id.
        response_id = fields.text("request_id") or f"resp_{random_id()}"
        writer = _Writer(response_id, model, fields, params.max_tokens, background=background)
        if background:
            await self._in_background(writer, messages, (prompt, answered), reply, stream=params.stream)
            return
        with self._core.generating([(prompt, answered)]) as (choice,):
            if params.stream:
                await reply.begin()
                async for event in self._events(writer, choice):
                    await reply.event(event)
                self._keep(writer, choice, messages, stores)
                await reply.end()
            else:
                await self._core.all_done([choice])
                self._keep(writer, choice, messages, stores)
                await reply.whole(200, frames.encode(writer.document(choice)))

    async def retrieve(self, request: Request, reply: Reply) -> None:
        stored = self._store.get(request.path.removeprefix(_PREFIX))
        query = request.query
        if query.get("stream", "").lower() not in ("true", "1"):
            await reply.whole(200, frames.encode(stored.document))
            return
        await reply.begin()
        if stored.events is None:  # vLLM fails after its answer has begun
            reply.connection.transport.close()
            return
        after = query.get("starting_after")
        async for event in stored.events_from(0 if after is None else int(after) + 1):
            await reply.event(event)
        await reply.end()

    async def cancel(self, request: Request, reply: Reply) -> None:
        document = self._store.cancel(request.path.removeprefix(_PREFIX).removesuffix("/cancel"))
        await reply.whole(200, frames.encode(document))

    def _messages(self, fields: Fields, given: Any) -> list[Any]:
        """The conversation: the earlier messages, and the new input. Raises ``ApiError``."""
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        messages = messages if isinstance(messages, list) else []
        previous = fields.text("previous_response_id")
        if previous is not None:
            before = self._store.get(previous)
            messages = [*before.messages, *before.document["output"], *messages]
        instructions = fields.get("instructions")
        return [{"role": "system", "content": instructions}, *messages] if instructions else messages

    async def _in_background(
        self,
        writer: _Writer,
        messages: list[Any],
        asked: tuple[Prompt, Answer],
        reply: Reply,
        *,
        stream: bool,
    ) -> None:
        stored = Stored(messages, writer.document(None) | {"status": "queued"}, [] if stream else None)
        self._store.keep(writer.id, stored)
        self._store.run(stored, self._work(writer, stored, asked))
        if not stream:
            await reply.whole(200, frames.encode(stored.document))
            return
        await reply.begin()
        async for event in stored.events_from(0):
            await reply.event(event)
        await reply.end()

    async def _work(self, writer: _Writer, stored: Stored, asked: tuple[Prompt, Answer]) -> None:
        with self._core.generating([asked]) as (choice,):
            if stored.events is None:
                await self._core.all_done([choice])
            else:
                async for event in self._events(writer, choice):
                    stored.add(event)
        stored.document = writer.document(choice)

    def _keep(self, writer: _Writer, choice: Choice, messages: list[Any], stores: bool) -> None:
        if stores:
            self._store.keep(writer.id, Stored(messages, writer.document(choice)))

    async def _events(self, writer: _Writer, choice: Choice) -> AsyncIterator[bytes]:
        for event in writer.created():
            yield event
        await self._core.first_token([choice])
        for event in writer.opening():
            yield event
        async for _, number in self._core.tokens([choice]):
            yield writer.delta(choice.answer.parts[number])
        for event in writer.closing(choice):
            yield event


class _Writer:
    """One response, as a document or in numbered events."""

    def __init__(
        self, id_: str, model: str, fields: Fields, max_tokens: int | None, *, background: bool
    ) -> None:
        self.id = id_
        self._background = background
        self._model = model
        self._fields = fields
        self._max_tokens = max_tokens
        self._created = int(time.time())
        self._item = f"msg_{random_id()}"
        self._number = -1

    def document(self, choice: Choice | None) -> dict[str, Any]:
        """The response as a document. ``choice`` is None before anything is generated."""
        cut = choice is not None and choice.answer.finish_reason == "length"
        status = "in_progress" if choice is None else "incomplete" if cut else "completed"
        return {
            "id": self.id,
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
            "background": self._background,
            "max_output_tokens": self._max_tokens,
            "max_tool_calls": None,
            "previous_response_id": self._fields.get("previous_response_id"),
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
