"""Finds the servers of this workstation, by a list of named steps. Each finds a server or gives a reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sage_inference.client.config import (
    UnifiedClientConfig,
    embedding_from_environment,
    llm_from_environment,
    unified_from_environment,
)
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.errors import NoServerFoundError
from sage_inference.client.servers import LookError, Server, look, look_at_all

LLM_PORTS = (8001, 8000)
EMBEDDING_PORTS = (8090, 8080)
CLOUD_URL = "https://dashscope.aliyuncs.com/compatible-mode"
CLOUD_MODEL = "qwen-turbo"
_HELP = (
    "start a gateway with 'sage inference start --background --llm-backend URL' "
    "(or --simulate, to try it), or set SAGE_UNIFIED_BASE_URL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCriteria:
    """The criteria of a search. ``config`` has the explicit arguments, ``kinds`` the kinds of work."""

    config: UnifiedClientConfig
    kinds: tuple[str, ...] = ("llm", "embedding")
    prefer_local: bool = True
    llm_ports: Sequence[int] = LLM_PORTS
    embedding_ports: Sequence[int] = EMBEDDING_PORTS
    allow_cloud: bool | None = None


@dataclass(slots=True)
class Search:
    """The servers found so far, by kind of work, and the steps that were tried."""

    criteria: SearchCriteria
    environ: Mapping[str, str]
    found: dict[str, Endpoint] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)

    def missing(self, kind: str) -> bool:
        return kind in self.criteria.kinds and kind not in self.found

    @property
    def over(self) -> bool:
        return all(kind in self.found for kind in self.criteria.kinds)

    def add_named(self, kind: str, named: Endpoint | None) -> bool:
        """Take a server that arguments or environment name, without contacting it."""
        if named is None or not self.missing(kind):
            return False
        self.found[kind] = replace(named, model=self.model(kind) or named.model)
        return True

    def add_found(self, kind: str, server: Server, api_key: str | None) -> str | None:
        """Take a server that has answered, or return the reason against it."""
        models, wanted = server.models(kind), self.model(kind)
        if models is None:
            return f"serves no {kind} model"
        if wanted and wanted not in models:
            return f"serves {', '.join(models)}, not {wanted}"
        # Of several models none is the default. A gateway has a default of its own.
        only = models[0] if len(models) == 1 else None
        self.found[kind] = Endpoint(server.url, wanted or only, api_key)
        return None

    def model(self, kind: str) -> str | None:
        config = self.criteria.config
        return (config.llm_model if kind == "llm" else config.embedding_model) or config.model

    def api_key(self, kind: str) -> str | None:
        """A key that was given as an argument. Keys in the environment belong to the servers named there."""
        config = self.criteria.config
        return (config.llm_api_key if kind == "llm" else config.embedding_api_key) or config.api_key


async def find(criteria: SearchCriteria, environ: Mapping[str, str] = os.environ) -> Search:
    """Raises ``NoServerFoundError`` with all steps that were tried, ``ValueError`` for an invalid address."""
    search = Search(criteria, environ)
    local = [_daemon, _llm_ports, _embedding_ports]
    rest = [*local, _cloud] if criteria.prefer_local else [_cloud, *local]
    steps: list[Callable[[Search], Awaitable[str | None]]] = [_arguments, _unified, _by_kind, *rest]
    for step in steps:
        if search.over:
            break
        why_not = await step(search)
        if why_not is not None:
            search.tried.append(why_not)
    if not search.found:
        raise NoServerFoundError(_nothing(search.tried), tuple(search.tried))
    return search


def _nothing(tried: Sequence[str]) -> str:
    lines = "".join(f"\n  {number}. {line}" for number, line in enumerate(tried, 1))
    return f"no inference server was found; tried:{lines}\n{_HELP}"


async def _arguments(search: Search) -> str | None:
    config = search.criteria.config
    took = [search.add_named("llm", config.llm), search.add_named("embedding", config.embedding)]
    return None if any(took) else "arguments: no base_url, llm_base_url or embedding_base_url given"


async def _unified(search: Search) -> str | None:
    named = unified_from_environment(search.environ)
    if named is None:
        return "SAGE_UNIFIED_BASE_URL: not set"
    search.add_named("llm", named)
    search.add_named("embedding", named)
    return None


async def _by_kind(search: Search) -> str | None:
    search.add_named("llm", llm_from_environment(search.environ))
    search.add_named("embedding", embedding_from_environment(search.environ))
    names = {"llm": "SAGE_CHAT_BASE_URL", "embedding": "SAGE_EMBEDDING_BASE_URL"}
    missing = [name for kind, name in names.items() if search.missing(kind)]
    return f"{', '.join(missing)}: not set" if missing else None


async def _daemon(search: Search) -> str | None:
    from sage_inference.client.daemon import running_gateway

    found = running_gateway(search.environ)
    if isinstance(found, str):
        return f"running gateway: {found}"
    key = search.api_key("llm") or search.environ.get("SAGE_UNIFIED_API_KEY") or None
    try:
        server = await look(found.url, key)
    except LookError as error:
        return (
            f"running gateway: {found.url} {error}{'' if key else '; its key goes into SAGE_UNIFIED_API_KEY'}"
        )
    why = [search.add_found(kind, server, key) for kind in ("llm", "embedding") if search.missing(kind)]
    reasons = [one for one in why if one]
    return f"running gateway: {found.url} {', '.join(reasons)}" if reasons else None


async def _llm_ports(search: Search) -> str | None:
    return await _ports(search, "LLM", "SAGE_LLM_PORT", search.criteria.llm_ports)


async def _embedding_ports(search: Search) -> str | None:
    return await _ports(search, "embedding", "SAGE_EMBEDDING_PORT", search.criteria.embedding_ports)


async def _ports(search: Search, what: str, variable: str, ports: Sequence[int]) -> str | None:
    named = search.environ.get(variable, "").strip()
    if named and not (named.isdigit() and 0 < int(named) < 65536):
        raise ValueError(f"{variable} must be a port from 1 to 65535, not {named!r}")
    urls = [f"http://127.0.0.1:{port}" for port in ([int(named)] if named else []) + list(ports)]
    seen = await look_at_all(urls, search.api_key("llm" if what == "LLM" else "embedding"))
    servers = [one for one in seen.values() if isinstance(one, Server)]
    reasons = [f"{url} {one}" for url, one in seen.items() if isinstance(one, LookError)]
    own = "llm" if what == "LLM" else "embedding"
    for kind in ("llm", "embedding"):
        for server in servers:
            # A server on a port of the other kind must have reported that it does this kind of work.
            if search.missing(kind) and (kind == own or server.dedicated):
                why = search.add_found(kind, server, search.api_key(kind))
                reasons += [f"{server.url} {why}"] if why and kind == own else []
    missing = search.missing(own)
    return f"{what} ports: {'; '.join(dict.fromkeys(reasons)) or 'none given'}" if missing else None


async def _cloud(search: Search) -> str | None:
    """The cloud, only with its key or with ``allow_cloud``, because prompts must not leave the machine unasked."""
    if not search.missing("llm"):
        return None
    own, chat = (search.environ.get(name) for name in ("DASHSCOPE_API_KEY", "SAGE_CHAT_API_KEY"))
    allowed = search.criteria.allow_cloud
    key = own or (search.api_key("llm") or chat if allowed else None)
    if allowed is False:
        return "DashScope (cloud): forbidden by allow_cloud=False"
    if not key:
        return "DashScope (cloud): DASHSCOPE_API_KEY is not set" + (
            ", nor SAGE_CHAT_API_KEY" if allowed else "; or allow_cloud=True with SAGE_CHAT_API_KEY"
        )
    model = search.model("llm") or search.environ.get("SAGE_CHAT_MODEL") or CLOUD_MODEL
    search.found["llm"] = Endpoint(CLOUD_URL, model, key)
    warnings.warn(f"prompts leave this machine: chat goes to {CLOUD_URL} (model {model})", stacklevel=2)
    return None
