"""``embed``: the vectors of texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import embedding_models
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ApiKey, BaseUrl, Json, NoColor

if TYPE_CHECKING:
    from sage_inference.cli.embedding import EmbeddedTexts

app = plain_app()
_FIRST = 3  # values that a terminal shows of a vector


@app.command(cls=PlainCommand)
def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...", help="The texts; - reads one from each line of stdin.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="The model [the only one for embeddings].",
            autocompletion=embedding_models,
        ),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Print the vectors of texts.

    In a pipe or file, each line is the vector of one text, as a JSON array, in the order of the texts. A terminal
    shows the dimensions, the norm and the first values.

    Stdin is read for -, or without a text if stdin is no terminal. Its lines are sent in batches while they come.
    SAGE_UNIFIED_BASE_URL or SAGE_EMBEDDING_BASE_URL names another server, too.

    \b
    Examples:
      sage inference embed "a text" "another text"
      sage inference embed - < lines.txt > vectors.jsonl
      sage inference embed "a text" --json
    """
    from sage_inference.cli.embedding import embedded, texts_of
    from sage_inference.cli.served import find_server, wait_for_engine

    began = time.perf_counter()
    given = texts_of(texts or ())
    server = find_server("embedding", base_url, api_key)
    name = server.only("embedding") if model is None else server.require(model, "embedding")
    wait_for_engine(server, name)
    batches = embedded(server, name, given)
    if as_json:
        terminal.say_json(_document(name, list(batches)))
    elif sys.stdout.isatty():
        _show(batches, began)
    else:
        from sage_inference.cli.embedding import line_of

        for batch in batches:
            terminal.say_made("\n".join(map(line_of, batch.vectors)))
            sys.stdout.flush()


def _document(model: str, batches: list[EmbeddedTexts]) -> dict[str, Any]:
    from sage_inference.cli.embedding import rounded

    vectors = [rounded(vector) for batch in batches for vector in batch.vectors]
    tokens = [batch.prompt_tokens for batch in batches]
    return {
        "schema": 1,
        "model": model,
        "dimensions": len(vectors[0]) if vectors else None,
        "prompt_tokens": None if None in tokens else sum(filter(None, tokens)),
        "embeddings": vectors,
    }


def _show(batches: Iterator[EmbeddedTexts], began: float) -> None:
    """Each text on a line, cut to the terminal, and its vector below it."""
    import math
    import shutil

    from sage_inference.cli.numbers import duration
    from sage_inference.visible import visible

    width = shutil.get_terminal_size().columns
    count = tokens = 0
    for batch in batches:
        for text, vector in zip(batch.texts, batch.vectors, strict=True):
            shown = visible(text[: width + 1])
            terminal.say_made(shown if len(shown) <= width else f"{shown[: max(width - 1, 0)]}…")
            values = ", ".join(f"{value:.3f}" for value in vector[:_FIRST])
            more = ", …" if len(vector) > _FIRST else ""
            norm = math.sqrt(sum(value * value for value in vector))
            terminal.say_made(
                typer.style(f"  {len(vector)} dimensions, norm {norm:.3f}: {values}{more}", dim=True)
            )
        count += len(batch.texts)
        tokens += batch.prompt_tokens or 0
    if count > 1:
        terminal.talk(
            f"{count:,} texts{f', {tokens:,} tokens' if tokens else ''}, {duration(time.perf_counter() - began)}"
        )
