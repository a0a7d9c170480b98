"""Reads sampling parameters: those that a simulation can apply, and those that it must refuse as vLLM does."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.simulator.answers import Wish
from sage_inference.simulator.vllm.errors import ApiError, invalid
from sage_inference.simulator.vllm.schema import Fields

_MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Params:
    n: int
    max_tokens: int | None
    min_tokens: int
    seed: int
    ignore_eos: bool
    stop: tuple[str, ...]
    keep_stop: bool
    stream: bool
    usage: bool  # a stream ends with an event that has the usage
    running_usage: bool  # every other event has it too
    logprobs: int | None  # alternatives per token; None: no logprobs at all

    def wish(self, room: int) -> Wish:
        """The limits of an answer. ``room`` is the number of tokens that the model's context leaves for it."""
        return Wish(
            most=max(1, room),
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop=self.stop,
            keep_stop=self.keep_stop,
        )


def read_params(fields: Fields, *, max_tokens: tuple[str, ...], chat_logprobs: bool) -> Params:
    """The parameters of a request. ``max_tokens`` are the limit's names on this route; earlier ones take precedence.

    Raises ``ApiError``, first for types, then for values.
    """
    limits = {name: fields.integer(name) for name in max_tokens}
    name, limit = next(
        ((key, value) for key, value in limits.items() if value is not None), ("max_tokens", None)
    )
    n, seed, minimum = fields.integer("n"), fields.integer("seed"), fields.integer("min_tokens")
    temperature, top_p = fields.number("temperature"), fields.number("top_p")
    stream, ignore_eos = fields.flag("stream"), fields.flag("ignore_eos")
    keep_stop = fields.flag("include_stop_str_in_output")
    logprobs = _chat_logprobs(fields) if chat_logprobs else fields.integer("logprobs")
    options = fields.get("stream_options")
    stop = fields.get("stop")
    fields.check()
    if options is not None and not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise ApiError(message, param="stream_options")
    options = options if isinstance(options, dict) else {}
    _check_values(n, temperature, top_p, name, limit, logprobs)
    return Params(
        n=1 if n is None else n,
        max_tokens=limit,
        min_tokens=minimum or 0,
        seed=seed or 0,
        ignore_eos=ignore_eos,
        stop=(stop,) if isinstance(stop, str) else tuple(one for one in stop or () if isinstance(one, str)),
        keep_stop=keep_stop,
        stream=stream,
        usage=bool(options.get("include_usage")),
        running_usage=bool(options.get("continuous_usage_stats")),
        logprobs=logprobs,
    )


def _chat_logprobs(fields: Fields) -> int | None:
    wanted, alternatives = fields.flag("logprobs"), fields.integer("top_logprobs")
    return (alternatives or 0) if wanted else None


def _check_values(
    n: int | None,
    temperature: float | None,
    top_p: float | None,
    limit_name: str,
    limit: int | None,
    logprobs: int | None,
) -> None:
    if n is not None and n < 1:
        raise ApiError(f"n must be at least 1, got {n}.")
    if temperature is not None and temperature < 0:
        raise invalid("temperature", f"temperature must be non-negative, got {temperature}.", temperature)
    if top_p is not None and not 0 < top_p <= 1:
        raise invalid("top_p", f"top_p must be in (0, 1], got {top_p}.", top_p)
    if limit is not None and limit < 1:
        raise invalid(limit_name, f"{limit_name} must be at least 1, got {limit}.", limit)
    if logprobs is not None and logprobs > _MOST_LOGPROBS:
        message = (
            f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {_MOST_LOGPROBS}"
        )
        raise invalid("logprobs", message, logprobs)
