"""Rules between keys, and between keys and this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sage_inference import trust
from sage_inference.config.address import is_loopback, parse_backend, reaches
from sage_inference.config.engine_rules import check_engines, readable
from sage_inference.config.errors import ConfigError
from sage_inference.config.secrets import Secret, fits_header
from sage_inference.config.settings import NAMELESS, ApiKeySettings, InstanceSettings, Settings
from sage_inference.config.source_rules import check_sources
from sage_inference.config.tracing import check_tracing, headers_of


def check(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    *,
    listens: bool = True,
    served: str | None = None,
) -> None:
    """Raises ``ConfigError`` for the first broken rule. Reads the files that hold keys.

    ``listens`` is False for a gateway within a program, which has no address of its own. ``served`` is the fingerprint
    of the certificate that the running gateway has.
    """
    _instances(settings, listens)
    named = {name_of(each).lower(): f"instances[{at}]" for at, each in enumerate(settings.instances)}
    check_engines(settings, named, environ)
    _ca_files(settings)
    check_sources(settings.sources)
    _aliases(settings)
    _keys(settings.api_keys)
    _secrets(settings, environ)
    check_tracing(settings.tracing, environ)
    if listens and (settings.server.tls_cert is not None or settings.server.tls_key is not None):
        from sage_inference.config import certificate  # imports ``ssl``

        certificate.check(settings.server, served)
    check_reach(settings)


def check_reach(settings: Settings) -> None:
    """Raises ``ConfigError`` if other machines can reach a gateway that asks for no key."""
    if not (is_loopback(settings.server.host) or settings.api_keys or settings.server.insecure):
        raise ConfigError(
            f"server.host {settings.server.host} is reachable from other machines, and there are no api_keys",
            key="server.host",
            hint="set api_keys, or --insecure if everyone may use it",
        )


def name_of(instance: InstanceSettings) -> str:
    """The name of an instance: the configured name, otherwise its address."""
    return instance.name or parse_backend(instance.url).name


def _instances(settings: Settings, listens: bool) -> None:
    names: dict[str, int] = {}
    addresses: dict[object, int] = {}
    for at, instance in enumerate(settings.instances):
        here, backend = f"instances[{at}]", parse_backend(instance.url)
        if listens and reaches(backend, settings.server.host, settings.server.port):
            raise ConfigError(
                f"{here}.url {instance.url} is the gateway's own address: requests would run in a circle",
                key=f"{here}.url",
                hint="give the engine's address, or move the gateway with server.port",
            )
        twin = addresses.setdefault(backend.identity, at)
        if twin != at:
            raise ConfigError(
                f"{here}.url {instance.url} is configured already, as instances[{twin}]",
                key=f"{here}.url",
                hint="remove one; kind: mixed serves both kinds",
            )
        twin = names.setdefault(name_of(instance), at)
        if twin != at:
            raise ConfigError(
                f"{here} and instances[{twin}] are both named {name_of(instance)}",
                key=f"{here}.name",
                hint="give one of them another name",
            )


def _ca_files(settings: Settings) -> None:
    for at, instance in enumerate(settings.instances):
        check_ca_file(instance, f"instances[{at}].")


def check_ca_file(instance: InstanceSettings, before: str = "") -> None:
    """Raises ``ConfigError`` unless the instance's ``ca_file`` can be used. ``before`` is the path to the instance."""
    if instance.ca_file is None:
        return
    key = f"{before}ca_file"
    if parse_backend(instance.url).scheme != "https":
        raise ConfigError(
            f"{key} is for an address with https://, and {before}url is {instance.url}",
            key=key,
            hint="write the address with https://, or remove ca_file",
        )
    try:
        trust.check_ca_file(instance.ca_file)
    except trust.TrustError as error:
        raise ConfigError(f"{key}: {error}", key=key) from None


def _aliases(settings: Settings) -> None:
    for alias, model in settings.aliases.items():
        if model in settings.aliases:
            what = "itself" if model == alias else f"{model}, an alias too"
            raise ConfigError(
                f"aliases.{alias} stands for {what}", key=f"aliases.{alias}", hint="name a served model"
            )


def _keys(api_keys: Sequence[ApiKeySettings]) -> None:
    """Raises ``ConfigError`` if keys of one name have different limits."""
    first: dict[str, int] = {}
    for at, entry in enumerate(api_keys):
        twin = first.setdefault(entry.name, at) if entry.name != NAMELESS else at
        if api_keys[twin].limits != entry.limits:
            raise ConfigError(
                f"api_keys[{at}] has the name of api_keys[{twin}], {entry.name}, and other limits",
                key=f"api_keys[{at}].limits",
                hint="keys of one name share their limits: write the same ones, or another name",
            )


def _secrets(settings: Settings, environ: Mapping[str, str] | None) -> None:
    for here, secret in _keys_in(settings):
        value = readable(here, secret, environ)
        if not fits_header(value):
            raise ConfigError(
                f"{here}: the key holds characters that are not allowed in a header",
                key=here,
                hint="use ASCII letters, digits and signs, in one word",
            )


def kept_secrets(settings: Settings) -> Iterator[tuple[str, Secret]]:
    """Every key in ``settings``, and every header of the collector's, with its place."""
    yield from _keys_in(settings)
    yield from headers_of(settings.tracing)


def _keys_in(settings: Settings) -> Iterator[tuple[str, Secret]]:
    for at, caller in enumerate(settings.api_keys):
        if caller.key:
            yield f"api_keys[{at}]", caller.key
    for at, instance in enumerate(settings.instances):
        if instance.api_key:
            yield f"instances[{at}].api_key", instance.api_key
    for at, source in enumerate(settings.sources):
        if source.token:
            yield f"sources[{at}].token", source.token
        if source.api_key:
            yield f"sources[{at}].api_key", source.api_key
    if settings.admin_key:
        yield "admin_key", settings.admin_key
    if settings.managed.hf_token:
        yield "managed.hf_token", settings.managed.hf_token
