"""Warnings about settings that are valid but probably mistakes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from sage_inference.config.check import kept_secrets
from sage_inference.config.environment import unknown_variables
from sage_inference.config.errors import Remark
from sage_inference.config.model_names import aliased, one_model_twice
from sage_inference.config.secrets import SecretError
from sage_inference.config.settings import Settings
from sage_inference.config.tracing import remarks as remarks_on_tracing


def warnings_of(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Remark]:
    """The warnings about ``settings``, which were read with the variables of ``environ``."""
    environ = os.environ if environ is None else environ
    return [
        *_variables(environ),
        *_quoted_keys(settings, environ),
        *_certificate(settings),
        *remarks_on_tracing(settings.tracing, environ),
        *one_model_twice(settings, aliased(settings)),
    ]


def _certificate(settings: Settings) -> Iterator[Remark]:
    if settings.server.tls_cert is not None:
        from sage_inference.config import certificate

        yield from certificate.remarks(settings.server)


def _variables(environ: Mapping[str, str]) -> Iterator[Remark]:
    for name, hint in unknown_variables(environ):
        yield Remark(f"variable {name} is ignored: no setting has this name", hint)


def _quoted_keys(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    for where, secret in kept_secrets(settings):
        try:
            value = secret.reveal(environ)
        except (SecretError, OSError, ValueError):
            continue  # `check` reports it
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'`":
            yield Remark(
                f"{where}: the key begins and ends with a quote, which is part of the key",
                "write NAME=value without quotes; docker --env-file takes them as part of the value",
            )
