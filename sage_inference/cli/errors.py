"""The failure of a command: the message to a person, and the document to a script that asked for JSON."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.program import as_called
from sage_inference.visible import visible_json


@dataclass
class Failure(Exception):
    """A command cannot do its work. ``main`` formats the message when it shows it."""

    message: str
    hint: str | None = None
    code: str = "failed"
    exit_code: int = ExitCode.FAILED

    def __str__(self) -> str:
        return self.message


def usage(message: str, hint: str | None = None) -> Failure:
    """The command line itself is wrong."""
    return Failure(message, hint, "usage", ExitCode.USAGE)


def lower(text: str) -> str:
    """``text`` in our style: its first word in lower case (unless an acronym), no full stop at the end."""
    if len(text) > 1 and text[0].isupper() and text[1].islower():
        text = text[0].lower() + text[1:]
    return text.removesuffix(".")


def from_usage_error(error: Any) -> Failure:
    """The failure for one of Typer's own errors. Any, because the package of its class differs by version."""
    message = re.sub(r"\s+", " ", str(error.format_message())).strip()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sage"
    hint = f"{path} --help"
    possible = getattr(error, "possibilities", None)
    if possible:
        message = re.sub(r"\s*\((Possible|Did you mean).*\)$", "", message)
        hint = f"did you mean {' or '.join(sorted(possible))}?"
    elif context is not None and type(error).__name__ == "NoSuchOption":
        hint = _behind_dashes(context) or hint
    return usage(lower(message), hint)


def _behind_dashes(context: Any) -> str | None:
    """A hint for a value that begins with a dash and was read as an option. None if the command takes no values."""
    names = [
        each.make_metavar(context) for each in context.command.params if each.param_type_name == "argument"
    ]
    if not names:
        return None
    *before, last = [name.strip("[]") for name in names]
    path = context.command_path
    return f"{path} --help; a value that begins with - follows --: {' '.join([path, *before, '--', last])}"


def from_exception(error: BaseException) -> Failure:
    """The failure to show for ``error``, an error of any room."""
    if isinstance(error, Failure):
        return error
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return from_usage_error(error)
    known = _known(error)
    if known is not None:
        return known
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure(f"{where}{lower(error.strerror or str(error))}", code="os_error")
    return Failure(
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())}",
        hint="this is a bug; SAGE_INFERENCE_DEBUG=1 shows where it comes from",
        code="internal",
    )


def _known(error: BaseException) -> Failure | None:
    """The failure for an error of another room. Rooms that are not loaded cannot have raised one."""
    loaded = sys.modules.get("sage_inference.config.errors")
    if loaded is not None and isinstance(error, loaded.ConfigError):
        return _from_config(error)
    loaded = sys.modules.get("sage_inference.daemon.errors")
    if loaded is not None and isinstance(error, loaded.DaemonError):
        status = ExitCode.NOT_RUNNING if isinstance(error, loaded.NotRunning) else ExitCode.FAILED
        return Failure(error.problem, error.hint, error.code, status)
    loaded = sys.modules.get("sage_inference.bench.errors")
    if loaded is not None:
        if isinstance(error, loaded.BenchError):
            return Failure(error.message, error.hint, error.code)
        if isinstance(error, loaded.OptionError | loaded.OptionConflict):
            return usage(str(error))
    loaded = sys.modules.get("sage_inference.config.secrets")
    if loaded is not None and isinstance(error, loaded.SecretError):
        return Failure(str(error), code="secret")
    return None


def _from_config(error: Any) -> Failure:
    """The message includes a near miss; other hints get a line of their own."""
    hint: str | None = error.hint
    given = bool(error.key) and error.key.startswith("--")
    code, status = ("usage", ExitCode.USAGE) if given else ("config", ExitCode.FAILED)
    if hint is None or hint.startswith("did you mean"):
        return Failure(str(error), None, code, status)
    return Failure(str(error).removesuffix(f"; {hint}"), hint, code, status)


def document(failure: Failure) -> str:
    """The failure for a script."""
    hint = failure.hint and as_called(failure.hint)
    error = {"code": failure.code, "message": as_called(failure.message), "hint": hint}
    return visible_json(json.dumps({"schema": 1, "error": error}, ensure_ascii=False))
