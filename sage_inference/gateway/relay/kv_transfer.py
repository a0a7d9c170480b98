"""The two bodies that a request for a pair becomes, as vLLM's ``kv_transfer_params`` want them."""

from __future__ import annotations

import msgspec

from sage_inference.gateway.relay.heads import UNCODED
from sage_inference.requests.fields import read_fields as all_fields
from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.requests.rejection import Reason, Rejection

PARAMS = "kv_transfer_params"
_ASK = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
_ONE, _FALSE = msgspec.Raw(b"1"), msgspec.Raw(b"false")
_UNSET = (b"", b"null")
# Fields that a single token can't satisfy, or can't have.
_NOT_OF_ONE_TOKEN = ("stream_options", "min_tokens", "min_completion_tokens")
# vLLM hands over the blocks of one prompt for one answer, and no probabilities of the prompt's own tokens.
_SPLIT_WITH = {"n": b"1", "best_of": b"1", "use_beam_search": b"false", "echo": b"false"}
_NEVER_SPLIT_WITH = ("prompt_logprobs", "prompt_embeds")

Fields = dict[str, msgspec.Raw]


class _Prefilled(msgspec.Struct):
    """An engine's answer to a prompt alone, or a body of which only this field matters."""

    kv_transfer_params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_answer = msgspec.json.Decoder(_Prefilled).decode


def read_fields(body: bytes, model: str) -> Fields | None:
    """The body's fields, None where it can't be split into two legs.

    Raises ``Rejection`` where it has ``kv_transfer_params`` of its own: they would make an engine fetch from
    wherever the caller likes, other callers' prompts among it.
    """
    params = decoded(_decode_answer, body).kv_transfer_params
    own = not isinstance(params, msgspec.UnsetType) and bytes(params) not in _UNSET
    fields = all_fields(body)
    if own:
        message = f"'{PARAMS}' of model \"{model}\" are the gateway's own: leave them out"
        raise Rejection(Reason.BAD_REQUEST, message, PARAMS)
    return fields if fields is not None and _can_be_split(fields) else None


def _can_be_split(fields: Fields) -> bool:
    if any(_raw(fields, name) not in (*_UNSET, value) for name, value in _SPLIT_WITH.items()):
        return False
    if any(_raw(fields, name) not in _UNSET for name in _NEVER_SPLIT_WITH):
        return False
    prompt = _raw(fields, "prompt")
    # A text, or the ids of one; a list of either is several prompts.
    return prompt[:1] != b"[" or prompt[1:].lstrip()[:1].isdigit()


def _raw(fields: Fields, name: str) -> bytes:
    return bytes(fields[name]) if name in fields else b""


def prefill_body(fields: Fields) -> bytes:
    """Asks for one token, and for the prompt's blocks to be kept for another engine."""
    asked = {name: value for name, value in fields.items() if name not in _NOT_OF_ONE_TOKEN}
    asked |= {"stream": _FALSE, "max_tokens": _ONE, PARAMS: _ASK}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = _ONE
    return msgspec.json.encode(asked)


def decode_body(fields: Fields, params: msgspec.Raw) -> bytes:
    """The caller's own request, and where its prompt's blocks are; every other value keeps its bytes."""
    return msgspec.json.encode({**fields, PARAMS: params})


def handed_over(answer: bytes) -> msgspec.Raw | None:
    """The place of the blocks, as a prefilling engine reports it; None where it reports none."""
    try:
        params = _decode_answer(answer).kv_transfer_params
    except UNREADABLE:
        return None
    return params if isinstance(params, msgspec.Raw) and bytes(params)[:1] == b"{" else None


def uncoded(lines: bytes) -> bytes:
    """Header lines that ask for no content coding: this answer is for the gateway to read."""
    kept = [line for line in lines.split(b"\r\n") if not line.startswith(b"accept-encoding:")]
    return UNCODED + b"\r\n".join(kept)
