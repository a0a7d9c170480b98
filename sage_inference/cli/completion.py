"""``completion``: the script with which a shell completes our commands."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import SHELLS, shells
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import check_choice

app = plain_app()


@app.command(cls=PlainCommand)
def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", autocompletion=shells)],
    program: Annotated[str, typer.Option(metavar="NAME", help="sage or sage-inference.")] = "sage",
) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      sage completion bash > ~/.local/share/bash-completion/completions/sage
      sage completion fish > ~/.config/fish/completions/sage.fish
    """
    from sage_inference.cli.complete import PROGRAMS, script

    check_choice("shell", shell, SHELLS)
    check_choice("program", program, PROGRAMS)
    terminal.say_made(script(shell, program).rstrip("\n"))
