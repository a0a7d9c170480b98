"""Checks of texts that must have a certain form. The schema refers to a form by its name."""

from __future__ import annotations

import re
from collections.abc import Callable

from sage_inference.config.address import check_backend, check_host, check_origin
from sage_inference.config.errors import Invalid, quote

# A name is used in a header, in a path of /admin and in a metric's label.
_NAME = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,99}")


def check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise Invalid(f"must be letters, digits and . _ : - (at most 100), not {quote(text)}")


FORMATS: dict[str, Callable[[str], object]] = {
    "backend": check_backend,
    "host": check_host,
    "name": check_name,
    "origin": check_origin,
}
