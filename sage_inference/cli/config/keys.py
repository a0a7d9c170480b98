"""The key that a command line names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sage_inference.cli.errors import usage


@contextmanager
def key_of_usage(name: str) -> Iterator[None]:
    """A key that the schema does not have is wrong usage; a mistake in the file is not."""
    from sage_inference.config.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        if error.source or error.key != name:
            raise
        near = error.hint and error.hint.startswith("did you mean")
        raise usage(str(error) if near else error.problem, None if near else error.hint) from None
