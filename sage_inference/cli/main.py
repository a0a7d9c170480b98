"""The entry of both programs, ``sage`` and ``sage-inference``: no input ends in a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sage_inference.cli import complete, standard_streams, terminal
from sage_inference.cli.errors import Failure, document, from_exception
from sage_inference.cli.exit_codes import EPILOG, ExitCode
from sage_inference.cli.inference import InferenceGroup
from sage_inference.cli.lazy import Lazy, LazyGroup, plain_app
from sage_inference.cli.options import NoColor
from sage_inference.cli.program import call

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Root(LazyGroup):
    lazy = {
        "inference": Lazy("sage_inference.cli.inference", "Run the inference gateway and talk to it."),
        "docs": Lazy("sage_inference.cli.docs", "Show the documentation."),
        "completion": Lazy("sage_inference.cli.completion", "Print the completion script of a shell."),
    }


def _version(wanted: bool) -> None:
    if wanted:
        from sage_inference._version import __version__

        terminal.say(f"sage-inference {__version__} (Python {sys.version.split()[0]})")
        raise typer.Exit()


app = plain_app(Root, no_args_is_help=True, epilog=EPILOG)


@app.callback()
def sage(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and Python's."),
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Serve the engines of this machine behind one OpenAI-compatible endpoint.

    \b
    Examples:
      sage inference start --simulate --background
      sage inference status
      sage inference stop
      sage docs
    """


def main(argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run one command line and return its exit status."""
    call(_called(sys.argv[0]) if program is None else program)
    program = program or _program_name(sys.argv[0])
    args = _arguments(program, list(sys.argv[1:] if argv is None else argv))
    colour = terminal.colour_choice(args)
    standard_streams.open_closed()
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are no text. They are shown escaped, without an error.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        complete.prepare(program)
        command = typer.main.get_command(app)
        status = command.main(args, prog_name=program, standalone_mode=False, color=colour)
        sys.stdout.flush()
        return int(status or 0)
    except BrokenPipeError:
        # The reader of our output has left (`| head`).
        standard_streams.give_up_output()
        return ExitCode.FAILED
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:
        if complete.asked(program):
            return ExitCode.DONE
        return _failed(error, args, colour)
    finally:
        standard_streams.give_up_broken_output()


def _called(path: str) -> str:
    """The file's name, which an installer may have changed (pipx --suffix); the program's for ``python -m``."""
    name = Path(path).name
    return name if name.startswith("sage") else "sage-inference"


def _program_name(path: str) -> str:
    return "sage" if Path(path).stem == "sage" else "sage-inference"


def _arguments(program: str, args: list[str]) -> list[str]:
    """``sage-inference start`` is short for ``sage-inference inference start``."""
    if program != "sage" and args and args[0] in InferenceGroup.lazy:
        return ["inference", *args]
    return args


def _failed(error: Exception, args: Sequence[str], colour: bool | None) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(str(error), err=True, color=colour)
        return ExitCode.USAGE
    if os.environ.get("SAGE_INFERENCE_DEBUG", "0") not in ("", "0"):
        raise error
    # Our own writers name their files in errors. Without a name, the output was Typer's own help.
    if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
        error = OSError(error.errno, error.strerror, "standard output")
    failure = from_exception(error)
    _show(failure, _wants_json(args), colour)
    return failure.exit_code


def _wants_json(args: Sequence[str]) -> bool:
    """Whether a script reads the answer. The words are searched because they may not parse."""
    pairs = zip(args, [*args[1:], ""], strict=True)
    return any(
        word == "--json" or word == "--output=json" or (word in ("--output", "-o") and following == "json")
        for word, following in pairs
    )


def _show(failure: Failure, as_json: bool, colour: bool | None) -> None:
    # Each stream may be full or closed while the other is read.
    if as_json:
        with suppress(OSError):
            typer.echo(document(failure))
    with suppress(OSError):
        terminal.fail(failure.message, failure.hint, colour)
