"""``sage docs``: the installed documents on a terminal or in a pipe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import document_topics
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor, check_choice

app = plain_app()
_WIDTH = 100


@app.command(cls=PlainCommand)
def docs(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="[TOPIC]",
            help="The document to show; without it, all are listed.",
            autocompletion=document_topics,
        ),
    ] = None,
    no_color: NoColor = False,
) -> None:
    """Show the documentation.

    \b
    Examples:
      sage docs
      sage docs scheduling
      sage docs configuration | grep timeouts
    """
    from sage_inference.cli.documents import text_of, topic_named, topics

    if topic is None:
        _list(topics())
        if sys.stdout.isatty():
            terminal.talk(f"{context.command_path} TOPIC shows one of them")
        return
    named = topic_named(topic)
    if named not in topics():
        check_choice("topic", topic, topics())
    text = text_of(named)
    if sys.stdout.isatty():
        from shutil import get_terminal_size

        from sage_inference.cli import pager
        from sage_inference.cli.markdown import formatted

        coloured = context.color is not False and pager.takes_colour()
        pager.show(formatted(text, width=min(_WIDTH, get_terminal_size().columns), coloured=coloured))
    else:
        terminal.say_made(text.rstrip("\n"))


def _list(topics: list[str]) -> None:
    from sage_inference.cli.documents import summary_of

    width = max(map(len, topics))
    for topic in topics:
        terminal.say(f"{topic:<{width}}  {summary_of(topic)}")
