"""Checks of texts that must have a certain form. The schema refers to a form by its name."""

from __future__ import annotations

import re
from collections.abc import Callable

from sage_inference.config.address import (
    check_backend,
    check_collector,
    check_dashboard,
    check_dns_name,
    check_host,
    check_origin,
)
from sage_inference.config.errors import Invalid, quote
from sage_inference.config.sizes import budget, port_range

# A name is used in a header, in a path of /admin and in a metric's label.
_NAME = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,99}")
# A managed engine's name is also the name of a directory and of a systemd unit.
_ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# MIG slices are left out: vLLM takes no slice by its UUID.
_GPU = re.compile(r"auto|cpu|[0-9]{1,3}|GPU-[0-9a-fA-F-]{4,40}")

_KEY_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")


def check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise Invalid(f"must be letters, digits and . _ : - (at most 100), not {quote(text)}")


def check_engine_name(text: str) -> None:
    if not _ENGINE_NAME.fullmatch(text):
        raise Invalid(f"must be letters, digits and . _ - (at most 63), not {quote(text)}")


def check_gpu(text: str) -> None:
    if not _GPU.fullmatch(text):
        raise Invalid(
            f"takes auto, cpu, or indices and UUIDs of GPUs, not {quote(text)}", "nvidia-smi -L lists them"
        )


def check_key_hash(text: str) -> None:
    if not _KEY_HASH.fullmatch(text):
        raise Invalid(
            f"must be sha256: and 64 hexadecimal digits, not {quote(text)}",
            "sage inference keys add makes a key and stores its hash",
        )


FORMATS: dict[str, Callable[[str], object]] = {
    "backend": check_backend,
    "collector": check_collector,
    "dashboard": check_dashboard,
    "dns_name": check_dns_name,
    "engine_name": check_engine_name,
    "gpu": check_gpu,
    "host": check_host,
    "key_hash": check_key_hash,
    "memory": budget,
    "name": check_name,
    "origin": check_origin,
    "ports": port_range,
}
