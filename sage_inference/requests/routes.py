"""The routes that are relayed to engines, and the fields that each needs in a request's body."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from sage_inference.types import RequestType


class Body(Enum):
    JSON = auto()
    MULTIPART = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """``any_of``: fields of which one must be present, because the engine cannot guess them.

    ``names_model``: whether the field ``model`` belongs to the route's protocol, so that a missing one
    may be filled in; TEI's own routes have none.
    ``engine_path``: the path at an engine, if ``path`` is a template.
    """

    path: str
    type: RequestType
    any_of: tuple[str, ...] = ()
    names_model: bool = True
    body: Body = Body.JSON
    method: str = "POST"
    engine_path: str = ""


_T = RequestType
ROUTES: dict[str, Route] = {
    route.path: route
    for route in (
        Route("/v1/chat/completions", _T.LLM_CHAT, ("messages",)),
        Route("/v1/completions", _T.LLM_GENERATE, ("prompt", "prompt_embeds")),
        Route("/v1/embeddings", _T.EMBEDDING, ("input", "messages")),
        Route("/v1/responses", _T.RESPONSES, ("input", "prompt")),
        Route("/v1/messages", _T.MESSAGES, ("messages",)),
        Route("/v1/messages/count_tokens", _T.TOKENIZE, ("messages",)),
        Route("/v1/rerank", _T.RERANK, ("query",)),
        Route("/v2/rerank", _T.RERANK, ("query",)),
        Route("/rerank", _T.RERANK, ("query",), names_model=False),
        Route("/v1/score", _T.SCORE),
        Route("/score", _T.SCORE),
        Route("/classify", _T.CLASSIFY),
        Route("/pooling", _T.POOLING),
        Route("/tokenize", _T.TOKENIZE, names_model=False),
        Route("/detokenize", _T.TOKENIZE, names_model=False),
        Route("/v1/audio/transcriptions", _T.TRANSCRIPTION, body=Body.MULTIPART),
        Route("/v1/audio/translations", _T.TRANSCRIPTION, body=Body.MULTIPART),
        Route("/v1/audio/speech", _T.SPEECH, ("input",)),
        Route("/embed", _T.EMBEDDING, ("inputs",), names_model=False),
        Route("/embed_sparse", _T.EMBEDDING, ("inputs",), names_model=False),
        Route("/embed_all", _T.EMBEDDING, ("inputs",), names_model=False),
        Route("/predict", _T.CLASSIFY, ("inputs",), names_model=False),
        Route("/similarity", _T.SIMILARITY, ("inputs",), names_model=False),
        Route("/", _T.EMBEDDING, ("inputs",), names_model=False),  # TEI's root: see ``root_route``
        Route("/info", _T.POOLING, names_model=False, body=Body.NONE, method="GET"),
    )
}
