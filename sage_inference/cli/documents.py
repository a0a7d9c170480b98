"""The documents that are installed with the package: their topics, titles and texts."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

_SUFFIX = ".md"


def topics() -> list[str]:
    """The names of all documents, as ``sage docs`` takes them."""
    return sorted(
        file.name.removesuffix(_SUFFIX) for file in _folder().iterdir() if file.name.endswith(_SUFFIX)
    )


def topic_named(word: str) -> str:
    """The topic that ``word`` spells in any case, with ``-`` for ``_``, with or without ``.md``."""
    return word.strip().lower().removesuffix(_SUFFIX).replace("-", "_")


def text_of(topic: str) -> str:
    """The Markdown of a topic."""
    return (_folder() / f"{topic}{_SUFFIX}").read_text(encoding="utf-8")


def summary_of(topic: str) -> str:
    """The part of the title after the colon."""
    title = text_of(topic).partition("\n")[0]
    return title.partition(": ")[2] or title.removeprefix("# ")


def _folder() -> Traversable:
    return files("sage_inference") / "docs"
