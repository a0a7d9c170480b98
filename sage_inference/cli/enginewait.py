"""The options, the wait with progress, and the answer of the commands for engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import enginetext, terminal
from sage_inference.cli.complete import engines as names_of_engines

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

Document = dict[str, Any]

EngineName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="The engine, by its name or model, as in ps.", autocompletion=names_of_engines
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; ps shows the progress.")]


def until(paths: Paths, engines: list[Document], is_over: Callable[[Document], bool]) -> list[Document]:
    """Wait until ``is_over`` is true for each of ``engines``, with progress. Ctrl-C leaves them as they are."""
    from sage_inference.cli.engineprogress import EngineProgress
    from sage_inference.daemon.managed import watch

    names = [each["name"] for each in engines]
    try:
        with EngineProgress() as progress:
            return watch(paths, names, is_over, progress.show)
    except KeyboardInterrupt:
        terminal.talk(f"no longer waiting; the gateway goes on: sage inference ps shows {', '.join(names)}")
        raise


def report(engine: Document, without_wait: str, *, as_json: bool, waited: bool) -> None:
    """Show the engine after an order. Raises ``EngineFailed`` if it was waited for and is not ready."""
    from sage_inference.daemon.managed import failure_of

    if waited and engine["state"] != "ready":
        raise failure_of(engine)
    if as_json:
        terminal.say_json({"schema": 1, "engine": engine})
    elif waited:
        say_ready(engine)
    else:
        terminal.say(f"{enginetext.called(engine)} {without_wait}; sage inference ps shows its progress")


def say_ready(engine: Document) -> None:
    model = engine.get("model")
    serves = f", and serves {model}" if model and model != engine["name"] else ""
    state = "goes on running" if engine.get("adopted") else "is ready"
    terminal.say(f"{enginetext.called(engine)} {state}{serves}")


def as_model(text: str) -> str:
    """A directory as the gateway can find it: its working directory is another one. Other text stays."""
    path = Path(text)
    is_path = text.startswith((".", "/", "~")) or path.is_dir()
    return str(path.expanduser().resolve()) if is_path else text
