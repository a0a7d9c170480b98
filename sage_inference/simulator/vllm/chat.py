"""``/v1/chat/completions``, plain and streamed, with tools and enforced JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sage_inference.simulator import tokens
from sage_inference.simulator.answers import Answer, Wish, answer, example_of, friendly, seed_of
from sage_inference.simulator.exchange import Reply, Request
from sage_inference.simulator.vllm import frames
from sage_inference.simulator.vllm.core import Choice, Core, Prompt, content_of, fail_stream, random_id
from sage_inference.simulator.vllm.errors import ApiError
from sage_inference.simulator.vllm.params import Params, read_params
from sage_inference.simulator.vllm.schema import Fields, problem, read

_IMAGE_TOKENS = 256
_MAX_TOKENS = ("max_completion_tokens", "max_tokens")


@dataclass(slots=True)
class Asked:
    """A parsed chat request. ``tool`` is the function that must be called, if any."""

    id: str
    model: str
    params: Params
    prompts: list[Prompt]
    tool: str | None = None
    forced: str | None = None  # the text that the request's constraints demand
    transfer: dict[str, Any] | None = None  # its kv_transfer_params


class Chat:
    def __init__(self, core: Core, *, text_only: bool) -> None:
        self._core = core
        self._text_only = text_only

    async def chat(self, request: Request, reply: Reply) -> None:
        fields = read(request)
        messages = fields.required_list("messages")
        await self._answer(self._understood(fields, [messages], request), reply)

    async def batch(self, request: Request, reply: Reply) -> None:
        """Answer several conversations in one request, with a choice for each."""
        fields = read(request)
        conversations = [one for one in fields.required_list("messages") if isinstance(one, list)]
        await self._answer(self._understood(fields, conversations, request), reply)

    def _understood(self, fields: Fields, conversations: list[list[Any]], request: Request) -> Asked:
        transfer = fields.mapping("kv_transfer_params")
        params = read_params(fields, max_tokens=_MAX_TOKENS, chat_logprobs=True)
        model = self._core.check_model(fields.text("model"))
        tools = fields.get("tools") or []
        asked = Asked(
            id=f"chatcmpl-{request_id(request)}",
            model=model,
            params=params,
            prompts=[self.prompt(one, tools) for one in conversations],
            tool=_tool_to_call(fields.get("tool_choice"), tools),
            transfer=transfer,
        )
        asked.forced = _arguments(asked.tool, tools) if asked.tool else constrained_text(fields)
        return asked

    def prompt(self, messages: list[Any], tools: Any = ()) -> Prompt:
        """The prompt of a conversation. Raises ``ApiError`` for messages that no chat template takes."""
        if not messages:
            words = "Cannot apply chat template to an empty conversation. Provide at least one message."
            raise ApiError(words)
        contents: list[str] = [frames.encode(tools).decode()] if tools else []
        last_user_text, images = "", 0
        for message in messages:
            if not isinstance(message, dict):
                bad = problem("dict_type", "messages.0", "Input should be a valid dictionary", message)
                raise ApiError(f"1 validation error:\n  {bad!r}", param=bad["loc"], kind="Bad Request")
            text, seen = content_of(
                message.get("content"), text_only=self._core.models[0] if self._text_only else None
            )
            for call in message.get("tool_calls") or ():
                text += frames.encode(call).decode()
            contents.append(text)
            images += seen
            last_user_text = text if message.get("role") == "user" else last_user_text
        return Prompt(tokens.chat_prompt(contents), last_user_text, images * _IMAGE_TOKENS)

    def answers(self, asked: Asked) -> list[tuple[Prompt, Answer]]:
        """The prompt and the answer of every choice. Raises ``ApiError`` if the context is too short for one."""
        found = []
        for prompt in asked.prompts:
            wish = asked.params.wish(self._core.room(prompt, asked.params))
            for variant in range(asked.params.n):
                found.append((prompt, _answer(asked, prompt, variant, wish)))
        return found

    async def _answer(self, asked: Asked, reply: Reply) -> None:
        answers = self.answers(asked)
        try:
            fetched = await self._core.fetch(asked.transfer, answers)
        except ApiError as error:
            if not asked.params.stream:
                raise
            await fail_stream(reply, error)
            return
        with self._core.generating(answers, fetched) as choices:
            if asked.params.stream:
                await self._stream(asked, choices, reply)
            else:
                await self._core.all_done(choices)
                await reply.whole(200, frames.encode(self._document(asked, choices)))

    def _document(self, asked: Asked, choices: Sequence[Choice]) -> dict[str, Any]:
        return {
            "id": asked.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.model,
            "choices": [_choice(asked, choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._core.fingerprint,
            "usage": frames.usage(choices, chat=True),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": self._core.offer(asked.transfer, asked.id, choices),
            "ec_transfer_params": None,
            "metrics": None,
        }

    async def _stream(self, asked: Asked, choices: Sequence[Choice], reply: Reply) -> None:
        chunks = _Chunks(asked, self._core.fingerprint)
        await reply.begin()
        await self._core.first_token(choices)
        for choice in choices:
            await reply.event(chunks.first(choice))
            if asked.tool:
                await reply.event(chunks.tool_name(choice, asked.tool))
        async for choice, number in self._core.tokens(choices):
            for chunk in chunks.token(choice, number):
                await reply.event(chunk)
        if asked.params.usage:
            await reply.event(chunks.usage(choices))
        await reply.event(frames.DONE)
        await reply.end()


class _Chunks:
    """The events of one chat stream."""

    def __init__(self, asked: Asked, fingerprint: str) -> None:
        self._params = asked.params
        self._tool = asked.tool
        self._fingerprint = fingerprint
        self._head = {
            "id": asked.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": asked.model,
        }

    def first(self, choice: Choice) -> bytes:
        delta = {"role": "assistant", "content": ""}
        body = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        usage = self._running(choice, 0)
        return frames.event(
            {**self._head, "choices": [body], **usage, "prompt_token_ids": None, "prompt_text": None}
        )

    def tool_name(self, choice: Choice, name: str) -> bytes:
        call = {
            "id": f"chatcmpl-tool-{random_id()}",
            "type": "function",
            "index": 0,
            "function": {"name": name},
        }
        return self._chunk(choice, {"content": None, "tool_calls": [call]}, 0)

    def token(self, choice: Choice, number: int) -> Iterable[bytes]:
        """The events of one token. An empty event that ends the choice follows a tool call's last token."""
        part = choice.answer.parts[number]
        last = number + 1 == len(choice.answer.parts)
        if not self._tool:
            yield self._chunk(choice, {"content": part} if part else {}, number, logprobs=True, last=last)
            return
        call = {"index": 0, "function": {"arguments": part}}
        yield self._chunk(choice, {"content": None, "tool_calls": [call]}, number)
        if last:
            yield self._chunk(choice, {}, number, last=True)

    def usage(self, choices: Sequence[Choice]) -> bytes:
        usage = frames.last_usage(choices, chat=True)
        return frames.event(
            {**self._head, "choices": [], "usage": usage, "system_fingerprint": self._fingerprint}
        )

    def _chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        number: int,
        *,
        logprobs: bool = False,
        last: bool = False,
    ) -> bytes:
        found = None
        if logprobs and self._params.logprobs is not None:
            found = frames.chat_logprobs([choice.answer.parts[number]], number, self._params.logprobs)
        body: dict[str, Any] = {"index": choice.index, "delta": delta, "logprobs": found}
        body["finish_reason"] = _finish_reason(choice, self._tool) if last else None
        if last:
            body["stop_reason"] = choice.answer.stop
        body["token_ids"] = None
        document = {**self._head, "choices": [body], **self._running(choice, number + 1)}
        if last and not self._params.usage:
            document["system_fingerprint"] = self._fingerprint
        return frames.event(document)

    def _running(self, choice: Choice, produced: int) -> dict[str, Any]:
        if not (self._params.usage and self._params.running_usage):
            return {}
        return {"usage": frames.running_usage(choice.prompt.tokens, produced)}


def request_id(request: Request) -> str:
    """The caller's request id, which becomes part of the answer's id, or a new one."""
    given = request.header(b"x-request-id")
    return given.decode("latin-1") if given else random_id()


def constrained_text(fields: Fields) -> str | None:
    """JSON (or a choice) that satisfies the request's constraint, or None if there is no constraint."""
    wanted = fields.get("response_format")
    wanted = wanted if isinstance(wanted, dict) else {}
    structured = fields.get("structured_outputs")
    structured = structured if isinstance(structured, dict) else {}
    schema = (wanted.get("json_schema") or {}).get("schema") or structured.get("json")
    if isinstance(schema, dict):
        return frames.encode(example_of(schema)).decode()
    if wanted.get("type") == "json_object" or structured.get("json_object"):
        return '{"simulated":true}'
    choices = structured.get("choice")
    return str(choices[0]) if choices else None


def _answer(asked: Asked, prompt: Prompt, variant: int, wish: Wish) -> Answer:
    seed = seed_of(prompt.text, variant + asked.params.seed)
    if asked.forced is not None:
        return answer(asked.forced, seed, Wish(wish.most, wish.max_tokens))
    return answer(friendly(prompt.quoted, seed), seed, wish)


def _tool_to_call(choice: Any, tools: Any) -> str | None:
    names = [one.get("function", {}).get("name") for one in tools if isinstance(one, dict)]
    if choice == "required" and names:
        return str(names[0])
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        if name not in names:
            raise ApiError(f"Tool {name} was not found in tools.", param="tool_choice")
        return str(name)
    return None


def _arguments(tool: str, tools: Any) -> str:
    function: dict[str, Any] = next(one["function"] for one in tools if one["function"]["name"] == tool)
    return frames.encode(example_of(function.get("parameters") or {"type": "object"})).decode()


def _finish_reason(choice: Choice, tool: str | None) -> str:
    return "tool_calls" if tool and choice.answer.finish_reason == "stop" else choice.answer.finish_reason


def _choice(asked: Asked, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if asked.tool else choice.answer.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if asked.tool:
        function = {"name": asked.tool, "arguments": choice.answer.text}
        call = {"id": f"chatcmpl-tool-{random_id()}", "type": "function", "function": function}
        message["tool_calls"] = [call]
    message["reasoning"] = None
    alternatives = asked.params.logprobs
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None
        if alternatives is None
        else frames.chat_logprobs(choice.answer.parts, 0, alternatives),
        "finish_reason": _finish_reason(choice, asked.tool),
        "stop_reason": choice.answer.stop,
        "token_ids": None,
        "routed_experts": None,
    }
