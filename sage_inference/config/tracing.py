"""Rules of the settings of tracing, and what they mean together with the variables of OpenTelemetry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from os import environ as _own

from sage_inference.config.engine_rules import readable
from sage_inference.config.errors import ConfigError, Remark
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import TracingSettings

DEFAULT = "http://localhost:4318"
PATH = "/v1/traces"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def check_tracing(tracing: TracingSettings, environ: Mapping[str, str] | None) -> None:
    """Raises ``ConfigError`` if tracing is on and cannot work."""
    for here, secret in headers_of(tracing):
        name = here.removeprefix("tracing.headers.")
        if not _HEADER.fullmatch(name):
            raise ConfigError(
                f"tracing.headers: {name[:60]!a} is no name of a header",
                key="tracing.headers",
                hint="letters, digits and -, as authorization",
            )
        value = readable(here, secret, environ)
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"{here}: the value holds characters that are not allowed in a header",
                key=here,
                hint="use ASCII letters, digits, signs and spaces",
            )
    if tracing.enabled and not is_installed():
        raise ConfigError(
            "tracing.enabled needs OpenTelemetry, which is not installed",
            key="tracing.enabled",
            hint="pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http, or this package with the extra otel",
        )


def is_installed() -> bool:
    """Whether the extra ``otel`` is installed. None of it is loaded for this answer."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ImportError:  # of a package above
        return False


def headers_of(tracing: TracingSettings) -> Iterator[tuple[str, Secret]]:
    """The headers with their places."""
    for name, secret in tracing.headers.items():
        yield f"tracing.headers.{name}", secret


def endpoint_of(tracing: TracingSettings, environ: Mapping[str, str]) -> str:
    """The complete URL that spans are sent to."""
    if tracing.endpoint is None and (complete := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return complete
    base = tracing.endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or DEFAULT
    base = base.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def shown(endpoint: str) -> str:
    """The endpoint without a user and a password, which a variable may have put into it."""
    return re.sub(r"//[^/@]*@", "//", endpoint)


def remarks(tracing: TracingSettings, environ: Mapping[str, str] | None) -> Iterator[Remark]:
    """Warnings about settings that can be used."""
    environ = _own if environ is None else environ
    if not tracing.enabled:
        if tracing.endpoint is not None:
            yield Remark("tracing.endpoint has no effect, because tracing.enabled is false", "set it to true")
        return
    endpoint = shown(endpoint_of(tracing, environ))
    if re.match(r"[^/]*//[^/]*:4317/", endpoint):
        yield Remark(
            f"{endpoint}: 4317 is the usual port of OTLP over gRPC, and the gateway sends OTLP over HTTP",
            "collectors take that at port 4318",
        )
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        yield Remark(
            f"the protocol {protocol[:40]!a} of OTEL_EXPORTER_OTLP_PROTOCOL is not used",
            "the gateway sends http/protobuf",
        )
