"""The bodies of the two legs of a disaggregated request, in the form of vLLM's ``kv_transfer_params``."""

from __future__ import annotations

import msgspec

from sage_inference.gateway.relay.heads import ACCEPT_IDENTITY
from sage_inference.requests.fields import read_fields as all_fields
from sage_inference.requests.lenient import UNREADABLE, decoded
from sage_inference.requests.rejection import Reason, Rejection

PARAMS = "kv_transfer_params"
_PREFILL_PARAMS = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
_ONE, _FALSE = msgspec.Raw(b"1"), msgspec.Raw(b"false")
_UNSET = (b"", b"null")
# Fields that an answer of a single token cannot satisfy, or cannot have.
_NOT_OF_ONE_TOKEN = ("stream_options", "min_tokens", "min_completion_tokens")
# Only requests with these values, and without these fields, can be split into two legs:
# vLLM transfers the blocks of one prompt for one answer, without log probabilities of the prompt's own tokens.
_ONLY_VALUES = {"n": b"1", "best_of": b"1", "use_beam_search": b"false", "echo": b"false"}
_EXCLUDED = ("prompt_logprobs", "prompt_embeds")

Fields = dict[str, msgspec.Raw]


class _Prefilled(msgspec.Struct):
    """The one field that is read of a prefilling engine's answer, or of a caller's body."""

    kv_transfer_params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_answer = msgspec.json.Decoder(_Prefilled).decode


def read_fields(body: bytes, model: str) -> Fields | None:
    """The body's fields, None where the body cannot be split into two legs.

    Raises ``Rejection`` for a body that has ``kv_transfer_params`` already. With them a caller could make an engine
    fetch from anywhere, other callers' prompts included.
    """
    params = decoded(_decode_answer, body).kv_transfer_params
    own = not isinstance(params, msgspec.UnsetType) and bytes(params) not in _UNSET
    fields = all_fields(body)
    if own:
        message = f"'{PARAMS}' are set by the gateway for model \"{model}\": leave them out"
        raise Rejection(Reason.BAD_REQUEST, message, PARAMS)
    return fields if fields is not None and _can_disaggregate(fields) else None


def _can_disaggregate(fields: Fields) -> bool:
    if any(_raw(fields, name) not in (*_UNSET, value) for name, value in _ONLY_VALUES.items()):
        return False
    if any(_raw(fields, name) not in _UNSET for name in _EXCLUDED):
        return False
    prompt = _raw(fields, "prompt")
    # One prompt is a text, or a list of token ids. A list of either is several prompts.
    return prompt[:1] != b"[" or prompt[1:].lstrip()[:1].isdigit()


def _raw(fields: Fields, name: str) -> bytes:
    return bytes(fields[name]) if name in fields else b""


def prefill_body(fields: Fields) -> bytes:
    """A body that asks for one token, and for the prompt's blocks to be kept for another engine."""
    asked = {name: value for name, value in fields.items() if name not in _NOT_OF_ONE_TOKEN}
    asked |= {"stream": _FALSE, "max_tokens": _ONE, PARAMS: _PREFILL_PARAMS}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = _ONE
    return msgspec.json.encode(asked)


def decode_body(fields: Fields, params: msgspec.Raw) -> bytes:
    """The caller's body with the place of the prompt's blocks added; every other value keeps its bytes."""
    return msgspec.json.encode({**fields, PARAMS: params})


def kv_params_of(answer: bytes) -> msgspec.Raw | None:
    """The place of the blocks that a prefilling engine's answer reports; None where it reports none."""
    try:
        params = _decode_answer(answer).kv_transfer_params
    except UNREADABLE:
        return None
    return params if isinstance(params, msgspec.Raw) and bytes(params)[:1] == b"{" else None


def asking_identity(lines: bytes) -> bytes:
    """The header lines, asking for no content coding, because the gateway itself reads this answer."""
    kept = [line for line in lines.split(b"\r\n") if not line.startswith(b"accept-encoding:")]
    return ACCEPT_IDENTITY + b"\r\n".join(kept)
