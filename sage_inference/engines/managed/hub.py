"""Facts about a model from the hub, by two questions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from sage_inference.engines.managed.model_files import WEIGHT_ENDINGS, ModelFacts, of_files

_DEFAULT = "https://huggingface.co"
_TIMEOUT = httpx.Timeout(5.0, connect=2.0)
_LARGEST_ANSWER = 32 << 20


class HubError(Exception):
    """The hub has no answer. An engine may still have the model in its cache."""


class NoSuchModelError(HubError):
    """The hub has no such model, or shows it only to others. ``near`` are similar names."""

    def __init__(self, near: tuple[str, ...]) -> None:
        super().__init__("no such model")
        self.near = near


class GatedModelError(HubError):
    """The hub shows the model's page and not its files: its license is not accepted by the owner of our token.

    ``page`` is where it is accepted.
    """

    def __init__(self, page: str) -> None:
        super().__init__("gated")
        self.page = page


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub. ``blobs`` has the sizes of its weights, by the names that they get in the cache."""

    facts: ModelFacts
    blobs: Mapping[str, int] = field(default_factory=dict)


def ask(model: str, revision: str | None, env: Mapping[str, str], token: str | None) -> HubModel:
    """The model ``ORG/NAME``. ``env`` has the hub's address and proxies. Blocks for seconds. Raises ``HubError``."""
    base = (env.get("HF_ENDPOINT") or _DEFAULT).rstrip("/")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(timeout=_TIMEOUT, headers=headers, follow_redirects=True) as client:
            about = _get(
                client,
                f"{base}/api/models/{quote(model)}/revision/{quote(revision or 'main', safe='')}?blobs=true",
                is_page=True,
            )
            if about is None:
                raise NoSuchModelError(_near(client, base, model))
            files = _section(about, "siblings", list)
            sizes = {
                str(each.get("rfilename")): int(each.get("size") or 0)
                for each in files
                if isinstance(each, dict)
            }
            commit = str(about.get("sha") or "") or None
            config = (
                _get(client, f"{base}/{quote(model)}/resolve/{commit or 'main'}/config.json")
                if "config.json" in sizes
                else None
            )
            if config is None and about.get("gated"):
                raise GatedModelError(f"{base}/{quote(model)}")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise HubError(f"{type(error).__name__}") from None
    if "config.json" not in sizes and any(name.endswith(".gguf") for name in sizes):
        # The weights stay unknown, because such a repository has the same model in several sizes.
        return HubModel(ModelFacts("llm", is_gguf=True, commit=commit))
    facts = of_files(config or _section(about, "config", dict), sizes, {}, commit)
    return HubModel(facts, _blobs(files))


def _blobs(files: list[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for ending in WEIGHT_ENDINGS:
        for each in files:
            large = _section(each, "lfs", dict) if isinstance(each, dict) else {}
            name = str(each.get("rfilename")) if large else ""
            if name.endswith(ending) and "/" not in name and large.get("sha256"):
                found[str(large["sha256"])] = int(large.get("size") or 0)
        if found:
            break
    return found


def _get(client: httpx.Client, url: str, *, is_page: bool = False) -> dict[str, Any] | None:
    """A document; None if there is none for us. The hub answers 401 for the page of a name that it does not have."""
    answer = client.get(url)
    if is_page:
        is_hub = "json" in answer.headers.get("content-type", "") or "x-error-code" in answer.headers
        is_missing = answer.status_code in (401, 404) and is_hub  # otherwise a proxy answers
    else:
        is_missing = answer.status_code in (401, 403, 404)
    if is_missing:
        return None
    answer.raise_for_status()
    if len(answer.content) > _LARGEST_ANSWER:
        raise ValueError("too large")
    found = answer.json()
    return found if isinstance(found, dict) else None


def _near(client: httpx.Client, base: str, model: str) -> tuple[str, ...]:
    try:
        answer = client.get(f"{base}/api/models", params={"search": model.rpartition("/")[2], "limit": "20"})
        names = [str(each.get("id")) for each in answer.json() if isinstance(each, dict)]
    except (httpx.HTTPError, ValueError, TypeError):
        return ()
    return tuple(difflib.get_close_matches(model, names, n=2, cutoff=0.7))


def _section(values: Mapping[str, Any], name: str, form: type) -> Any:
    found = values.get(name)
    return found if isinstance(found, form) else form()
