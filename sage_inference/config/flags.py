"""Applies the options of ``start`` to the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sage_inference.config.address import check_backend
from sage_inference.config.check import check
from sage_inference.config.environment import put
from sage_inference.config.errors import ConfigError, Invalid
from sage_inference.config.schema import locate
from sage_inference.config.settings import ApiKeySettings, Flags, InstanceSettings, Settings, SourceSettings
from sage_inference.config.source_rules import label_of
from sage_inference.config.values import check_value

__all__ = ["apply", "check"]

# The flags that set one key: the field of Flags and the key's path.
_SCALARS = {
    "llm_model": "llm_model",
    "embedding_model": "embedding_model",
    "scheduling_policy": "scheduling.policy",
    "host": "server.host",
    "port": "server.port",
    "log_level": "logging.level",
}


def apply(settings: Settings, flags: Flags) -> Settings:
    """``settings``, overridden by the flags. Backends and a cluster are added, and an API key replaces all others.

    A backend or a cluster that the configuration has already stays as it is there. Raises ``ConfigError`` for a value that its key
    does not take, or a backend that the configuration has for the other kind of work.
    """
    for field, path in _SCALARS.items():
        value = getattr(flags, field)
        if value is not None:
            settings = put(settings, path, _checked("--" + field.replace("_", "-"), path, value))
    if flags.no_discover:
        settings = put(settings, "discover", False)
    if flags.no_engines:
        settings = put(settings, "engines", ())
    if flags.insecure:
        settings = put(settings, "server.insecure", True)
    if flags.api_key is not None:
        key = _checked("--api-key", "api_keys[0].key", flags.api_key)
        settings = replace(settings, api_keys=(ApiKeySettings(key=key, name="command line"),))
    for kind, urls in (("llm", flags.llm_backends), ("embedding", flags.embedding_backends)):
        for url in urls:
            settings = _with_backend(settings, kind, url)
    if flags.cluster is not None:
        source = SourceSettings(ray=_checked("--cluster", "sources[0].ray", flags.cluster))
        if label_of(source) not in map(label_of, settings.sources):
            settings = replace(settings, sources=(*settings.sources, source))
    return settings


def _with_backend(settings: Settings, kind: str, url: str) -> Settings:
    flag = f"--{kind}-backend"
    url = _checked(flag, "instances[0].url", url)
    address = check_backend(url).identity
    for at, known in enumerate(settings.instances):
        if check_backend(known.url).identity != address:
            continue
        if known.kind in ("auto", "mixed", kind):
            return settings
        problem = f"{flag} {url} is configured already, as instances[{at}] of kind {known.kind}"
        hint = "for an engine that serves both, write kind: mixed in the configuration's instances"
        raise ConfigError(problem, key=flag, hint=hint)
    return replace(settings, instances=(*settings.instances, InstanceSettings(url=url, kind=kind)))


def _checked(flag: str, path: str, value: Any) -> Any:
    place = locate(path)
    try:
        return check_value(place.key, place.shape, value)
    except Invalid as error:
        raise ConfigError(f"{flag} {error.problem}", key=flag, hint=error.hint) from None
