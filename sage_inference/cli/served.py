"""The server that ``chat`` and ``embed`` ask: its address, a key for it, and its models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sage_inference.cli.errors import Failure, usage
from sage_inference.daemon.models import suits

if TYPE_CHECKING:
    from sage_inference.client.endpoint import Endpoint
    from sage_inference.config.paths import Paths

Kind = Literal["chat", "embedding"]
Document = dict[str, Any]

_ASK_S = 10.0
_SHOWN = 12  # names in an error
_NEAR = 0.75
_LEAST = 3  # letters of a word that may be the begin of a model's name
_VARIABLES = {"chat": "SAGE_CHAT", "embedding": "SAGE_EMBEDDING"}
_KEY_HINT = "give it with --api-key env:NAME or file:PATH"


@dataclass(frozen=True, slots=True)
class ModelServer:
    """``models`` are documents as in ``sage inference models --json``. ``paths`` are None for a server of elsewhere."""

    url: str
    key: str | None = field(repr=False)
    models: list[Document]
    defaults: dict[str, str | None]
    paths: Paths | None = None

    def find(self, name: str) -> Document | None:
        """The model of that name or alias; otherwise the only one that differs in case, or in the tag ``latest``."""
        for model in self.models:
            if name == model["name"] or name in model["aliases"]:
                return model
        wanted = (name.lower(), f"{name.lower()}:latest")
        near = [m for m in self.models if any(each.lower() in wanted for each in _names(m))]
        return near[0] if len(near) == 1 else None

    def name_for(self, word: str) -> str | None:
        """The name under which the server serves ``word``, or None. Any word if the server lists no models."""
        found = self.find(word)
        if found is None:
            return word if not self.models and self.paths is None else None
        return word if word in _names(found) else str(found["name"])

    def names(self) -> list[str]:
        """The names and aliases of models for chat."""
        return [name for model in self.models if suits(model, "chat") is not False for name in _names(model)]

    def require(self, word: str, kind: Kind) -> str:
        """The name for ``word``. Raises a failure with near names, or for a model of another kind."""
        name = self.name_for(word)
        if name is None:
            raise self.unknown(word, kind)
        found = self.find(word)
        if kind == "chat" and found is not None and suits(found, "chat") is False:
            raise Failure(
                f"{name} is a model for {_USES.get(found['kind'], found['kind'])}, not for chat",
                "sage inference models shows the others",
                "wrong_model_kind",
            )
        return name

    def unknown(self, word: str, kind: Kind) -> Failure:
        near = self.near(word)
        if near:
            hint = f"did you mean {' or '.join(near[:3])}?"
        else:
            names = [str(model["name"]) for model in self._of_kind(kind)]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            hint = f"served: {', '.join(names[:_SHOWN])}{more}" if names else self._start_hint()
        return Failure(f'no model "{word[:200]}" at {self.url}', hint, "model_not_found")

    def near(self, word: str) -> list[str]:
        """The names that ``word`` resembles: the first part of a name, or a misspelled one."""
        if not word or len(word) > 200 or any(c.isspace() for c in word):
            return []
        from difflib import get_close_matches

        spelled: dict[str, str] = {}
        for name in (each for model in self.models for each in _names(model)):
            spelled.setdefault(name.lower(), name)
            spelled.setdefault(name.lower().rpartition("/")[2], name)
        low = word.lower()
        begun = [name for form, name in spelled.items() if len(low) >= _LEAST and form.startswith(low)]
        close = [spelled[form] for form in get_close_matches(low, spelled, n=3, cutoff=_NEAR)]
        return list(dict.fromkeys([*begun, *close]))

    def only(self, kind: Kind) -> str:
        """The model to use where none was named. Raises a failure if there is none, or no clear one."""
        default = self.defaults.get(kind)
        if default is not None and (name := self.name_for(default)) is not None:
            return name
        fitting = self._of_kind(kind)
        if len(fitting) == 1:
            return str(fitting[0]["name"])
        what = "chat" if kind == "chat" else "embedding"
        if not fitting:
            if self.paths is None and not self.models:
                raise usage(f"{self.url} lists no models", "name one with --model")
            raise Failure(f"{self.url} serves no {what} model", self._start_hint(), "no_model")
        names = [str(model["name"]) for model in fitting]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        example = "sage inference chat" if kind == "chat" else "sage inference embed --model"
        raise usage(
            f"{len(names)} {what} models are served: {', '.join(names[:_SHOWN])}{more}",
            f"name one, as in: {example} {names[0]}",
        )

    def _of_kind(self, kind: Kind) -> list[Document]:
        sure = [model for model in self.models if suits(model, kind)]
        return sure or [model for model in self.models if suits(model, kind) is None]

    def _start_hint(self) -> str:
        if self.paths is None:
            return "is it the right server?"
        return "sage inference load MODEL starts one; sage inference models shows what is served"


_USES = {
    "embedding": "embeddings",
    "rerank": "reranking",
    "transcription": "transcription",
    "speech": "speech",
    "classification": "classification",
}


def _names(model: Document) -> Iterator[str]:
    yield model["name"]
    yield from model["aliases"]


def find_server(kind: Kind, base_url: str | None, api_key: str | None) -> ModelServer:
    """The server of ``--base-url``, otherwise of the environment, otherwise the running gateway."""
    from sage_inference.cli.options import warn_of_literal_key

    key = None
    if api_key is not None:
        from sage_inference.config.secrets import Secret

        warn_of_literal_key(api_key)
        key = Secret(api_key).reveal()
    endpoint = _named(kind, base_url)
    if endpoint is not None:
        return _elsewhere(endpoint.url, _checked(key or endpoint.api_key))
    return _running(_checked(key or os.environ.get("SAGE_UNIFIED_API_KEY") or None))


def _checked(key: str | None) -> str | None:
    """Raises a failure for a key that would break its header."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Failure("the API key has characters that no header can carry", _KEY_HINT, "api_key")
    return key


def _named(kind: Kind, base_url: str | None) -> Endpoint | None:
    prefixes = ("SAGE_UNIFIED", _VARIABLES[kind])
    if base_url is None and not any(os.environ.get(f"{prefix}_BASE_URL", "").strip() for prefix in prefixes):
        return None
    from sage_inference.client.config import (
        embedding_from_environment,
        llm_from_environment,
        unified_from_environment,
    )
    from sage_inference.client.endpoint import endpoint

    own = llm_from_environment if kind == "chat" else embedding_from_environment
    try:
        if base_url is not None:
            found: Endpoint | None = endpoint(base_url)
        else:
            found = unified_from_environment() or own()
    except ValueError as error:
        given = "--base-url: " if base_url is not None else ""
        raise usage(f"{given}{error}") from None
    if found is not None and found.url.startswith("unix:"):
        raise usage(f"{found.url} is a Unix socket; give the address of a server at a port")
    return found


def _running(key: str | None) -> ModelServer:
    from sage_inference.config.paths import Paths
    from sage_inference.daemon import models
    from sage_inference.daemon.access import access

    paths = Paths.resolve()
    found = access(paths, key=key, hint="sage inference start --background, or give --base-url")
    listed = models.models(found.info)
    return ModelServer(
        found.url,
        _checked(found.key),
        listed["models"],
        listed["defaults"],
        paths,
    )


def _elsewhere(url: str, key: str | None) -> ModelServer:
    from sage_inference.client.answers import checked
    from sage_inference.client.direct_http import transport_to
    from sage_inference.client.errors import SageInferenceError
    from sage_inference.client.requests import Request

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = checked(transport_to(url).send(Request(url, "/v1/models", headers), _ASK_S))
    except SageInferenceError as error:
        if error.status != 404:
            raise failure_of(error, url, key is not None) from None
        return ModelServer(url, key, [], {})
    return ModelServer(url, key, _from_cards(answer.body), {})


def _from_cards(body: bytes) -> list[Document]:
    """The models of ``/v1/models``. Cards of our gateway name their kind and what an alias stands for."""
    import json

    try:
        cards = [card for card in json.loads(body)["data"] if isinstance(card.get("id"), str)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    ids = {card["id"] for card in cards}
    aliases: dict[str, list[str]] = {}
    for card in cards:
        if card.get("parent") in ids and card["parent"] == card.get("root") != card["id"]:
            aliases.setdefault(card["parent"], []).append(card["id"])
    hidden = {alias for some in aliases.values() for alias in some}
    return [
        {
            "name": card["id"],
            "kind": card.get("type") if card.get("type") in ("chat", *_USES) else None,
            "capabilities": card.get("capabilities") if isinstance(card.get("capabilities"), list) else [],
            "state": str(card.get("sage_state") or "ready"),
            "aliases": aliases.get(card["id"], []),
            "engines": [],
            "ready": 1,
        }
        for card in cards
        if card["id"] not in hidden
    ]


def wait_for_engine(server: ModelServer, model: str) -> None:
    """Wait for an engine that the gateway is starting, and show its progress. Raises ``EngineFailed`` if it does not come."""
    found = server.find(model)
    paths = server.paths
    if paths is None or found is None or found["ready"] or found["state"] not in ("waiting", "starting"):
        return
    if not found["engines"]:
        return
    import time

    from sage_inference.cli.enginewait import until
    from sage_inference.daemon import control, managed

    engines = managed.current(control.running(paths))
    wanted = [each for each in engines if each["name"] in found["engines"]][:1]
    for engine in until(paths, wanted, managed.settled(time.monotonic())):
        if engine["state"] != "ready":
            raise managed.failure_of(engine)


def failure_of(error: Any, url: str, with_key: bool, model: str = "") -> Failure:
    """The failure for ``error``, a ``SageInferenceError``."""
    from sage_inference.client.answers import is_too_long

    message = " ".join(error.message.split())[:600] or "no reason was given"
    if error.status in (401, 403):
        words = "refuses this API key" if with_key else "wants an API key"
        return Failure(f"{url} {words}: {message}", _KEY_HINT, "api_key")
    if is_too_long(error):
        return Failure(
            f"the text is too long for {model}: {message}",
            "send less, or lower max_tokens; /clear forgets a conversation",
            "too_long",
        )
    if error.status is not None and error.status < 400:
        return Failure(message, None, "bad_answer")
    code = error.code or {404: "not_found", 429: "rate_limited"}.get(error.status, "server_error")
    if error.status is None:
        return Failure(message, None, "not_reached" if "reached" in message else "broken_off")
    hint = None
    if error.retry_after is not None:
        hint = f"try again in {error.retry_after:g} s"
    return Failure(f"{url} answers with {error.status}: {message}", hint, str(code))
