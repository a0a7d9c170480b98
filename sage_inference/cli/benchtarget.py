"""The server that ``bench`` measures, and the models for its requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sage_inference.bench.exchange import Kind
from sage_inference.bench.target import Target, served_models
from sage_inference.cli.errors import Failure, usage
from sage_inference.cli.options import warn_of_literal_key
from sage_inference.config.address import check_backend
from sage_inference.config.errors import Invalid
from sage_inference.config.paths import Paths
from sage_inference.config.secrets import Secret


@dataclass(frozen=True, slots=True)
class Found:
    """``simulated`` is None if the server does not report it."""

    target: Target
    models: dict[Kind, str]
    simulated: bool | None = None


def find(
    kinds: Iterable[Kind],
    *,
    url: str | None,
    api_key: str | None,
    model: str | None,
    embedding_model: str | None,
) -> Found:
    """Take models that were not given from the server's list, or the running gateway's."""
    warn_of_literal_key(api_key)
    key = Secret(api_key).reveal() if api_key is not None else None
    given = {kind: (embedding_model if kind is Kind.EMBEDDINGS else None) or model for kind in kinds}
    if url is None:
        return _gateway(given, key)
    target = _target(url, key)
    only = None if all(given.values()) else _only_model(target)
    return Found(target, {kind: name or str(only) for kind, name in given.items()})


def _target(url: str, key: str | None) -> Target:
    try:
        address = check_backend(url)
    except Invalid as error:
        raise usage(f"--url {error.problem}", error.hint) from None
    if address.uds:
        raise usage(
            f"--url {url} is a Unix socket, and bench measures servers at a port",
            "start the server with a port, or measure a gateway in front of it",
        )
    if address.scheme != "https":
        return Target(address.host, address.port, False, address.prefix, key)
    from sage_inference.client.trusted import own_context

    return Target(address.host, address.port, True, address.prefix, key, own_context(url))


def _only_model(target: Target) -> str:
    names = served_models(target)
    if len(names) > 1:
        raise usage(f"{target.url} serves {', '.join(names)}", "choose one with --model or --embedding-model")
    return names[0]


def _gateway(given: dict[Kind, str | None], key: str | None) -> Found:
    from sage_inference.daemon.access import access

    found = access(Paths.resolve(), key=key)
    models: dict[Kind, str] = {}
    for kind, name in given.items():
        served = name or found.model(embedding=kind is Kind.EMBEDDINGS)
        if served is None:
            what = "embeddings" if kind is Kind.EMBEDDINGS else "chats"
            raise Failure(
                f"the gateway has no instance for {what}", "sage inference status shows what it has"
            )
        models[kind] = served
    tls = found.tls
    target = Target(found.host, found.port, tls is not None, key=found.key, pinned=tls)
    return Found(target, models, bool(found.status["simulated"]))
